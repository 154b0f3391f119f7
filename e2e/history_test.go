package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/rogpeppe/go-internal/testscript"
)

// did is what somebody did to a thing that several people have a hand in.
type did struct {
	what  string // "config", "host", "release" or "token"
	name  string // which of that kind
	verb  string
	value string // the variable's value, the app that is to have the host name, the version that is to serve
}

// came is what came of it.
type came struct {
	unknown bool   // no answer, or one that leaves open what was done
	refused bool   // somebody else was sooner, so nothing was done and nothing is known
	value   string // what was read; "" for what is not there
}

// things are what the four kinds do: what can be done to one, each as often as it stands there, and what each comes to. The state is a
// text: the value, the app, the version, or nothing; a change gives the state after it, whatever was said of it.
var things = map[string]struct {
	verbs []string
	step  func(state string, in did, out came) (fits bool, next string)
}{
	"config": {[]string{"set", "set", "reveal", "reveal", "unset"}, func(state string, in did, out came) (bool, string) {
		switch in.verb {
		case "set":
			return true, in.value
		case "unset":
			return out.unknown || (state == "") == (out.value == ""), ""
		}
		return out.value == state, state
	}},
	"host": {[]string{"add", "remove", "list", "list"}, func(state string, in did, out came) (bool, string) {
		own := state == in.value
		switch in.verb {
		case "add":
			if own || state == "" {
				return out.unknown || out.value == "done", in.value
			}
			return out.unknown || out.value == "taken", state
		case "remove":
			if !own { // the command looks first, and somebody may be sooner: then nothing happens
				return true, state
			}
			return out.unknown || out.value == "done", ""
		}
		return own == (out.value == "done"), state
	}},
	"release": {[]string{"rollback", "get", "get", "get"}, func(state string, in did, out came) (bool, string) {
		if in.verb == "rollback" {
			return true, in.value
		}
		return out.value == state, state
	}},
	"token": {[]string{"use", "use", "use", "use", "use", "revoke"}, func(state string, in did, out came) (bool, string) {
		if in.verb == "revoke" {
			return true, "revoked"
		}
		return (state == "") == (out.value == "done"), state
	}},
}

// register is such a thing as its users see it: each of them does one thing at a time, and all that was answered has to be as if it
// had been done in some order, each between its question and its answer.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[[2]string][]porcupine.Operation{}
		for _, op := range all {
			in := op.Input.(did)
			by[[2]string{in.what, in.name}] = append(by[[2]string{in.what, in.name}], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	// Which version serves at first the first look tells; of the others there is nothing.
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in := input.(did)
		fits, next := things[in.what].step(state.(string), in, output.(came))
		return fits, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

// history has people change and read config variables, all at once, while processes are killed one after the other, and looks whether
// what they were told fits together.
func history(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: history PEOPLE DURATION PROCESS...")
	}
	people, err := strconv.Atoi(args[0])
	ts.Check(err)
	lasts, err := time.ParseDuration(args[1])
	ts.Check(err)
	tokens := makeTokens(ts, 3)
	t, err := of(ts).on.transport(false)
	ts.Check(err)
	defer t.CloseIdleConnections()
	at := historian{ts, &http.Client{Transport: t, Timeout: 20 * time.Second}, tokens}
	seed := rand.Uint64()
	ts.Logf("seed %d", seed)
	began := time.Now()
	var mu sync.Mutex
	var ops []porcupine.Operation
	// What serves when it begins, as a rollback of before everything.
	first := at.do(did{what: "release", verb: "get"})
	if first.unknown {
		ts.Fatalf("there is no version that serves")
	}
	ops = append(ops, porcupine.Operation{ClientId: people, Input: did{what: "release", verb: "rollback", value: first.value}, Call: -2, Return: -1, Output: came{}})
	var all sync.WaitGroup
	for who := range people {
		all.Go(func() {
			dice := rand.New(rand.NewPCG(seed, uint64(who)))
			for n := 0; time.Since(began) < lasts; n++ {
				in := choose(dice, fmt.Sprintf("v%d.%d", who, n), ts.Getenv("APP"))
				op := porcupine.Operation{ClientId: who, Input: in, Call: int64(time.Since(began))}
				out := at.do(in)
				op.Output, op.Return = out, int64(time.Since(began))
				if out.refused || out.unknown && reads[in.verb] {
					continue
				}
				if out.unknown {
					op.Return = math.MaxInt64 // it may still be done
				}
				mu.Lock()
				ops = append(ops, op)
				mu.Unlock()
			}
		})
	}
	dice := rand.New(rand.NewPCG(seed, math.MaxUint64))
	for n := 0; time.Since(began) < lasts; n++ {
		time.Sleep(time.Duration(300+dice.IntN(700)) * time.Millisecond)
		process := args[2+n%(len(args)-2)]
		kill9(ts, false, []string{process})
		back(ts, false, []string{process})
	}
	all.Wait()
	told := map[string]int{}
	for _, op := range ops {
		in := op.Input.(did)
		verb := in.what + " " + in.verb
		if op.Output.(came).unknown {
			verb += " without an answer"
		}
		told[verb]++
	}
	ts.Logf("%d answers: %v", len(ops), told)
	for _, verb := range []string{"config set", "config reveal", "host add", "host list", "release rollback", "release get", "token use"} {
		if told[verb] < 2 {
			ts.Fatalf("too little was done to say anything: %s", verb)
		}
	}
	if result := porcupine.CheckOperationsTimeout(register, ops, time.Minute); result != porcupine.Ok {
		slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, op := range ops {
			ts.Logf("%d %9d-%9d µs %s", op.ClientId, op.Call/1000, op.Return/1000, register.DescribeOperation(op.Input, op.Output))
		}
		ts.Fatalf("what people were told does not fit together: %v", result)
	}
}

// What does not fit together is seen.
func TestRegister(t *testing.T) {
	op := func(from, to int64, verb, value string, out came) porcupine.Operation {
		what, verb, _ := strings.Cut(verb, " ")
		return porcupine.Operation{Input: did{what: what, name: "A", verb: verb, value: value}, Call: from, Output: out, Return: to}
	}
	done, taken, lost := came{value: "done"}, came{value: "taken"}, came{unknown: true}
	for what, c := range map[string]struct {
		ops  []porcupine.Operation
		fits bool
	}{
		"a value that was read after it was set":  {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config reveal", "", came{value: "a"})}, true},
		"a value that was lost":                   {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config reveal", "", came{})}, false},
		"a value from before":                     {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config set", "b", done), op(5, 6, "config reveal", "", came{value: "a"})}, false},
		"a value that nobody set":                 {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config reveal", "", came{value: "b"})}, false},
		"two who read at once":                    {[]porcupine.Operation{op(1, 9, "config set", "a", done), op(2, 3, "config reveal", "", came{}), op(4, 5, "config reveal", "", came{value: "a"})}, true},
		"a value that comes and goes":             {[]porcupine.Operation{op(1, 9, "config set", "a", done), op(2, 3, "config reveal", "", came{value: "a"}), op(4, 5, "config reveal", "", came{})}, false},
		"no answer, and it was done":              {[]porcupine.Operation{op(1, math.MaxInt64, "config set", "a", lost), op(3, 4, "config reveal", "", came{value: "a"})}, true},
		"no answer, and it was not":               {[]porcupine.Operation{op(1, math.MaxInt64, "config set", "a", lost), op(3, 4, "config reveal", "", came{})}, true},
		"unset what was set":                      {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config unset", "", done), op(5, 6, "config reveal", "", came{})}, true},
		"told that there is none, and there was":  {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config unset", "", came{})}, false},
		"unset, and there all the same":           {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 4, "config unset", "", done), op(5, 6, "config reveal", "", came{value: "a"})}, false},
		"two who unset it, each told that it was": {[]porcupine.Operation{op(1, 2, "config set", "a", done), op(3, 9, "config unset", "", done), op(4, 8, "config unset", "", done)}, false},

		"a host name that another has":        {[]porcupine.Operation{op(1, 2, "host add", "a", done), op(3, 4, "host add", "b", taken), op(5, 6, "host list", "b", came{})}, true},
		"a host name that two have":           {[]porcupine.Operation{op(1, 2, "host add", "a", done), op(3, 4, "host add", "b", done)}, false},
		"a host name that is taken by nobody": {[]porcupine.Operation{op(1, 2, "host add", "b", taken)}, false},
		"a host name that was given up":       {[]porcupine.Operation{op(1, 2, "host add", "a", done), op(3, 4, "host remove", "a", done), op(5, 6, "host list", "a", done)}, false},
		"a release that serves":               {[]porcupine.Operation{op(1, 2, "release rollback", "one", done), op(3, 4, "release get", "", came{value: "one"})}, true},
		"a release of before that still does": {[]porcupine.Operation{op(1, 2, "release rollback", "one", done), op(3, 4, "release rollback", "two", done), op(5, 6, "release get", "", came{value: "one"})}, false},
		"a release that comes and goes":       {[]porcupine.Operation{op(1, 2, "release rollback", "one", done), op(3, 9, "release rollback", "two", done), op(4, 5, "release get", "", came{value: "two"}), op(6, 7, "release get", "", came{value: "one"})}, false},
		"a token that is revoked in between":  {[]porcupine.Operation{op(1, 2, "token use", "", done), op(3, 4, "token revoke", "", done), op(5, 6, "token use", "", came{})}, true},
		"a token that lives on":               {[]porcupine.Operation{op(3, 4, "token revoke", "", done), op(5, 6, "token use", "", done)}, false},
		"a token that was revoked by nobody":  {[]porcupine.Operation{op(5, 6, "token use", "", came{})}, false},
	} {
		if fits := porcupine.CheckOperations(register, c.ops); fits != c.fits {
			t.Errorf("%s: %t", what, fits)
		}
	}
}

// reads are the verbs of which nothing is left if there is no answer.
var reads = map[string]bool{"reveal": true, "list": true, "get": true, "use": true}

// choose is what somebody does next.
func choose(dice *rand.Rand, fresh, app string) did {
	what := []string{"config", "config", "config", "host", "host", "release", "release", "token"}[dice.IntN(8)]
	verbs := things[what].verbs
	in := did{what: what, verb: verbs[dice.IntN(len(verbs))]}
	switch what {
	case "config":
		in.name = fmt.Sprintf("HISTORY_%d", dice.IntN(3))
		if in.verb == "set" {
			in.value = fresh
		}
	case "host":
		in.name, in.value = fmt.Sprintf("%d.%s.example.org", dice.IntN(2), app), []string{app, app + "-r"}[dice.IntN(2)]
	case "release":
		if in.verb == "rollback" {
			in.value = []string{"one", "two"}[dice.IntN(2)]
		}
	case "token":
		in.name = fmt.Sprintf("history-%d", dice.IntN(3))
	}
	return in
}

// historian does things as people do. $APP has no release; $APP-r has, and its releases 2 and 3 are of the versions one and two.
type historian struct {
	ts     *testscript.TestScript
	client *http.Client
	tokens map[string]string // what each token is, by its name
}

func makeTokens(ts *testscript.TestScript, n int) map[string]string {
	out := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("history-%d", i)
		said, err := runOnce(ts, []string{"bulwark", "tokens", "create", name, "--scope", "read:" + ts.Getenv("APP"), "--json"})
		ts.Check(err)
		var made struct{ Token string }
		ts.Check(json.Unmarshal([]byte(said), &made))
		out[name] = made.Token
	}
	return out
}

func (h historian) do(in did) came {
	app := h.ts.Getenv("APP")
	switch in.what + " " + in.verb {
	case "release get":
		res, err := h.client.Get(fmt.Sprintf("https://%s-r.%s:%s/", app, domain, of(h.ts).on.ports["HTTPS"]))
		if err != nil {
			return came{unknown: true}
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if version, rest, ok := strings.Cut(strings.TrimPrefix(string(b), "version="), " "); err == nil && ok && strings.HasPrefix(rest, "release=") {
			return came{value: version}
		}
		return came{unknown: true}
	case "release rollback":
		return h.said(in, "", "rollback", map[string]string{"one": "v2", "two": "v3"}[in.value], "--app", app+"-r")
	case "config set":
		return h.said(in, "", "config", "set", in.name+"="+in.value, "--app", app)
	case "config unset", "config reveal":
		return h.said(in, "", "config", in.verb, in.name, "--app", app)
	case "host add", "host remove":
		return h.said(in, "", "domains", in.verb, in.name, "--app", in.value)
	case "host list":
		out := h.said(in, "", "domains", "list", "--app", in.value, "--json")
		if !out.unknown && strings.Contains(out.value, strconv.Quote(in.name)) {
			return came{value: "done"}
		}
		return came{unknown: out.unknown}
	}
	if in.verb == "revoke" {
		return h.said(in, "", "tokens", "revoke", in.name)
	}
	return h.said(in, h.tokens[in.name], "ps", "--app", app)
}

// said runs a command and reads what it says.
func (h historian) said(in did, token string, args ...string) came {
	out, err := runAs(h.ts, token, append([]string{"bulwark"}, args...))
	says := func(s string) bool { return err != nil && strings.Contains(out, s) }
	switch {
	case says("has no config variable " + in.name), says("does not answer to " + in.name), in.what == "token" && (says("not signed in") || says("not registered") || says("no token")):
		return came{}
	case says("belongs to another app"):
		return came{value: "taken"}
	case says("was changed meanwhile"):
		return came{refused: true}
	case err != nil:
		return came{unknown: true}
	case in.verb == "reveal" || in.verb == "list":
		return came{value: strings.TrimSpace(out)}
	}
	return came{value: "done"}
}

package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/rogpeppe/go-internal/testscript"
)

// wrote is what somebody did to a config variable: set or unset it, or read it.
type wrote struct {
	name  string
	verb  string // "set", "unset" or "reveal"
	value string // that was set
}

// read is what came of it. A variable that is not there has the value "".
type read struct {
	unknown bool // no answer, or one that leaves open what was done
	refused bool // somebody else was sooner, so nothing was done
	value   string
}

// register is a config variable as its users see it: each of them does one thing at a time, and all that was answered has to be as if it
// had been done in some order, each between its question and its answer.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range all {
			name := op.Input.(wrote).name
			by[name] = append(by[name], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(string), input.(wrote), output.(read)
		switch in.verb {
		case "set":
			return true, in.value
		case "unset":
			return out.unknown || (now == "") == (out.value == ""), ""
		}
		return out.unknown || out.value == now, now
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
	seed := rand.Uint64()
	ts.Logf("seed %d", seed)
	began := time.Now()
	var mu sync.Mutex
	var ops []porcupine.Operation
	var at sync.WaitGroup
	for who := range people {
		at.Go(func() {
			dice := rand.New(rand.NewPCG(seed, uint64(who)))
			for n := 0; time.Since(began) < lasts; n++ {
				in := wrote{name: fmt.Sprintf("HISTORY_%d", dice.IntN(3)), verb: []string{"set", "set", "reveal", "reveal", "unset"}[dice.IntN(5)]}
				if in.verb == "set" {
					in.value = fmt.Sprintf("v%d.%d", who, n)
				}
				op := porcupine.Operation{ClientId: who, Input: in, Call: int64(time.Since(began))}
				out := change(ts, in)
				op.Output, op.Return = out, int64(time.Since(began))
				if out.refused || out.unknown && in.verb == "reveal" {
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
	at.Wait()
	told := map[string]int{}
	for _, op := range ops {
		verb := op.Input.(wrote).verb
		if op.Output.(read).unknown {
			verb += " without an answer"
		}
		told[verb]++
	}
	ts.Logf("%d answers: %v", len(ops), told)
	if told["set"] < people || told["reveal"] < people {
		ts.Fatalf("too little was done to say anything")
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
	op := func(from, to int64, verb, value string, out read) porcupine.Operation {
		in := wrote{name: "A", verb: verb}
		if verb == "set" {
			in.value = value
		}
		return porcupine.Operation{Input: in, Call: from, Output: out, Return: to}
	}
	done, lost := read{value: "done"}, read{unknown: true}
	for what, c := range map[string]struct {
		ops  []porcupine.Operation
		fits bool
	}{
		"a value that was read after it was set":  {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "reveal", "", read{value: "a"})}, true},
		"a value that was lost":                   {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "reveal", "", read{})}, false},
		"a value from before":                     {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "set", "b", done), op(5, 6, "reveal", "", read{value: "a"})}, false},
		"a value that nobody set":                 {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "reveal", "", read{value: "b"})}, false},
		"two who read at once":                    {[]porcupine.Operation{op(1, 9, "set", "a", done), op(2, 3, "reveal", "", read{}), op(4, 5, "reveal", "", read{value: "a"})}, true},
		"a value that comes and goes":             {[]porcupine.Operation{op(1, 9, "set", "a", done), op(2, 3, "reveal", "", read{value: "a"}), op(4, 5, "reveal", "", read{})}, false},
		"no answer, and it was done":              {[]porcupine.Operation{op(1, math.MaxInt64, "set", "a", lost), op(3, 4, "reveal", "", read{value: "a"})}, true},
		"no answer, and it was not":               {[]porcupine.Operation{op(1, math.MaxInt64, "set", "a", lost), op(3, 4, "reveal", "", read{})}, true},
		"unset what was set":                      {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "unset", "", done), op(5, 6, "reveal", "", read{})}, true},
		"told that there is none, and there was":  {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "unset", "", read{})}, false},
		"unset, and there all the same":           {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 4, "unset", "", done), op(5, 6, "reveal", "", read{value: "a"})}, false},
		"two who unset it, each told that it was": {[]porcupine.Operation{op(1, 2, "set", "a", done), op(3, 9, "unset", "", done), op(4, 8, "unset", "", done)}, false},
	} {
		if fits := porcupine.CheckOperations(register, c.ops); fits != c.fits {
			t.Errorf("%s: %t", what, fits)
		}
	}
}

// change does something to a config variable as people do.
func change(ts *testscript.TestScript, in wrote) read {
	argv := []string{"bulwark", "config", in.verb, in.name, "--app", ts.Getenv("APP")}
	if in.verb == "set" {
		argv[3] += "=" + in.value
	}
	out, err := runOnce(ts, argv)
	absent := strings.Contains(out, "has no config variable "+in.name)
	switch {
	case absent:
		return read{}
	case strings.Contains(out, "was changed meanwhile"):
		return read{refused: true}
	case err != nil:
		return read{unknown: true}
	case in.verb == "reveal":
		return read{value: strings.TrimSpace(out)}
	}
	return read{value: "done"}
}

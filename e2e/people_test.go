package e2e

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// field reads a field of a JSON file that a command printed.
func field(ts *testscript.TestScript, file, name string) string {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &v))
	text, ok := v[name].(string)
	if !ok {
		ts.Fatalf("%s has no %s", file, name)
	}
	return text
}

// invited has a persona sign in with an invitation that "bulwark members add --json" printed; the script goes on as who it was.
func invited(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: invited PERSONA FILE")
	}
	was := ts.Getenv("PERSONA")
	as(ts, false, args[:1])
	ts.Setenv("BULWARK_TOKEN", field(ts, args[1], "invitation"))
	err := ts.Exec("bulwark", "login", ts.Getenv("URL"))
	ts.Setenv("BULWARK_TOKEN", "")
	as(ts, false, []string{was})
	if neg != (err != nil) {
		ts.Fatalf("signing in with the invitation: %v", err)
	}
}

// withToken goes on with the access token that "bulwark tokens create --json" printed, on a machine that knows nothing else.
func withToken(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: withtoken FILE")
	}
	ts.Setenv("BULWARK_TOKEN", field(ts, args[0], "token"))
	ts.Setenv("BULWARK_SERVER", ts.Getenv("URL"))
	empty, err := os.MkdirTemp(of(ts).work, "ci")
	ts.Check(err)
	ts.Setenv("XDG_CONFIG_HOME", empty)
}

// closed tries every command about an app: each must be told that there is none.
func closed(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: closed APP")
	}
	for _, line := range []string{
		"apps info", "releases", "ps", "ps scale web=2", "ps restart", "config", "config set A=b", "config unset A", "config reveal A", "builds", "builds show 1",
		"builds cancel", "logs", "logs --edge", "rollback v1", "domains add shop.example.com", "egress", "egress allow db.example.com:5432", "build-secrets", "build-secrets set A=b",
		"cron", "verify", "run -- ls", "releases approve v1", "apps protect --approvals 1", "apps protect --approvals 0 --approve", "apps destroy --confirm " + args[0], "apps restore",
	} {
		words := strings.Fields(line)
		words = append(words[:len(words):len(words)], "--app", args[0])
		if i := strings.Index(line, " --"); i >= 0 { // flags come before what is run
			words = append(strings.Fields(line[:i]), append([]string{"--app", args[0]}, strings.Fields(line[i:])...)...)
		}
		out, err := runOnce(ts, append([]string{"bulwark"}, words...))
		if err == nil || !strings.Contains(out+err.Error(), "There is no such app") {
			ts.Fatalf("bulwark %s: %v\n%s", line, err, out)
		}
	}
}

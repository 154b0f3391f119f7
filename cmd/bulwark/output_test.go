package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// golden compares what was printed with testdata/golden/NAME; with UPDATE_GOLDEN=1 it writes that file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
	}
}

func testCLI(t *testing.T) (*cli, *bytes.Buffer) {
	var out bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := testEnv(t)
	e.stdout, e.now, e.utf8 = &out, func() time.Time { return now }, true
	return &cli{env: e}, &out
}

func TestInstancesGolden(t *testing.T) {
	c, out := testCLI(t)
	now := c.now()
	c.showInstances([]client.Instance{
		{Name: "worker.1", Process: "worker", Release: 11, State: "failed", Reason: "It exited with code 1.", Size: "tiny", Command: "./work", Since: now.Add(-40 * time.Second), Crashes: 5},
		{Name: "web.1", Process: "web", Release: 12, State: "healthy", Size: "small", Command: "./server\x1b[2J --port", Since: now.Add(-3 * time.Hour)},
		{Name: "web.10", Process: "web", Release: 12, State: "starting", Size: "small", Command: "./server", Since: now},
	})
	golden(t, "instances", out.String())
}

func TestChainGolden(t *testing.T) {
	v := &verified{App: "shop", chain: chain{Release: 3, Links: []link{
		{"signature", linkHolds, "p_x signed"}, {"release signature", linkVouched, "the node says so"}, {"running", linkBroken, "ins_1\x1b]0;x\a runs v2"}}}}
	c, out := testCLI(t)
	c.showChain(v)
	c.utf8 = false
	v.Links, v.Holds, v.Local = v.Links[:1], true, localHead
	c.showChain(v)
	golden(t, "chain", out.String())
}

func TestTableColours(t *testing.T) {
	c, out := testCLI(t)
	c.colour = true
	c.table([][]string{{"a", "healthy", "x"}, {"bb", "failed", ""}})
	want := "a   \x1b[32mhealthy\x1b[0m  x\nbb  \x1b[31mfailed\x1b[0m\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                             "plain",
		"tab\tstays, ümläut too ✓":          "tab\tstays, ümläut too ✓",
		"\x1b[31mred\x1b[0m":                "red",
		"\x1b]0;title\atext":                "text",
		"\x1b]8;;http://x\x1b\\link":        "link",
		"\x1bPdcs\x1b\\after":               "after",
		"a\rb\bc\x00d\x7fe":                 "abcde",
		"\u009b31mc1":                       "31mc1",
		"a\u202eb\u2066c":                   "abc",
		"bad\xffutf8":                       "badutf8",
		"\x1b[":                             "",
		"\x1b":                              "",
		"\x1b[12\x1b[31mnested":             "nested",
		"\x1b]never ends\nnot even here":    "",
		"\ufffd is a letter that one means": "\ufffd is a letter that one means",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31mx\x1b]0;t\a")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		for _, r := range got {
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%q became %q", s, got)
			}
		}
		if again := clean(got); again != got {
			t.Fatalf("%q became %q and then %q", s, got, again)
		}
	})
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{0: "just now", 12 * time.Second: "12 seconds ago", time.Minute: "1 minute ago", 50 * time.Hour: "2 days ago",
		15 * 24 * time.Hour: "2 weeks ago", 800 * 24 * time.Hour: "2 years ago", -time.Hour: "2026-01-02T04:04:05Z", -time.Second: "just now"} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestShowError(t *testing.T) {
	e := testEnv(t)
	var out bytes.Buffer
	e.stderr = &out
	showError(e, bulwark.Fail(bulwark.KindInvalid, "It is \x1b[31mwrong.", "Do this:\n  that", errors.New("secret of the operator")))
	showError(e, errors.New("plain text"))
	want := " !    It is wrong.\n      Do this:\n        that\n !    Plain text.\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// Each command has what the people who use it were promised.
func TestEveryCommand(t *testing.T) {
	root := newRoot(testEnv(t), userCommands(testEnv(t))...)
	for _, c := range root.Commands() {
		for _, cmd := range append(c.Commands(), c) {
			if cmd.Name() == "help" || cmd.Name() == "completion" {
				continue
			}
			switch {
			case cmd.Short == "" || strings.HasSuffix(cmd.Short, "."):
				t.Errorf("%s has no short help, or one that ends in a full stop", cmd.CommandPath())
			case !strings.Contains(cmd.Example, "$ bulwark ") && !strings.Contains(cmd.Example, "bulwark "):
				t.Errorf("%s has no example", cmd.CommandPath())
			case cmd.Flags().Lookup("json") == nil:
				t.Errorf("%s has no --json", cmd.CommandPath())
			case !cmd.SilenceErrors || !cmd.SilenceUsage:
				t.Errorf("%s prints errors by itself", cmd.CommandPath())
			}
		}
	}
}

func TestParseRelease(t *testing.T) {
	for in, want := range map[string]uint64{"v3": 3, "3": 3, "v12": 12, "": 0, "v": 0, "v0": 0, "v03": 0, "-1": 0, "v1.2": 0, "vv1": 0} {
		if got, err := parseRelease(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

func TestPairs(t *testing.T) {
	got := map[bulwark.ProcessType]string{}
	take := func(p bulwark.ProcessType, v string) error { got[p] = v; return nil }
	if err := pairs([]string{"web=3", "worker=x=y"}, "", take); err != nil || got["web"] != "3" || got["worker"] != "x=y" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, args := range [][]string{{"web"}, {"=1"}, {"web=1", "web=2"}, {"Web=1"}} {
		if err := pairs(args, "", take); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

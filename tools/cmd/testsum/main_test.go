package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// What a summary must not call green.
func TestSummary(t *testing.T) {
	pass := `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA/one","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA/one","Elapsed":0.1}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
`
	ok := `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":0.1}` + "\n"
	for name, c := range map[string]struct{ in, want, shows string }{
		"green":         {pass + ok, "1 passed, 0 failed", "--- PASS: TestA (0.10s)"},
		"nothing":       {"", "0 passed, 1 failed", "no test ran"},
		"no tests":      {`{"Action":"skip","Package":"p"}`, "0 passed, 1 failed", "no test ran"},
		"skipped":       {pass + `{"Action":"output","Package":"p","Test":"TestB","Output":"no root\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestB"}` + "\n" + ok, "1 passed, 1 failed", "no root"},
		"cut off":       {pass, "1 passed, 1 failed", "never told"},
		"does not load": {pass + ok + "no required module provides package q\n", "1 passed, 0 failed", "no required module"}, // go's exit code tells
		"does not build": {pass + ok + `{"ImportPath":"q","Action":"build-output","Output":"undefined: x\n"}
{"Action":"start","Package":"q"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"q"}`, "1 passed, 1 failed", "undefined: x"},
		"a subtest": {strings.ReplaceAll(pass, `"pass"`, `"fail"`) + strings.ReplaceAll(ok, `"pass"`, `"fail"`), "0 passed, 1 failed", "Failed:\n  p TestA/one\n--- FAIL: TestA/one (p)\nquiet\n"},
		"a story": {`{"Action":"run","Package":"p","Test":"TestS"}` + "\n" + `{"Action":"output","Package":"p","Test":"TestS","Output":"    > stdout 'all of it'\n    FAIL: s.txtar:3: no match\n` +
			strings.Repeat("a log\\n", 50) + `"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestS"}`, "0 passed, 1 failed", "Failed:\n  p TestS\n--- FAIL: TestS (p)\n    > stdout 'all of it'\n    FAIL: s.txtar:3: no match\n\n"},
		"its own words": {`{"Action":"run","Package":"p","Test":"TestS"}` + "\n" + `{"Action":"output","Package":"p","Test":"TestS","Output":"    s_test.go:3: it is left\n` +
			strings.Repeat("a log\\n", 50) + `PASS\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestS"}`, "0 passed, 1 failed",
			"--- FAIL: TestS (p)\n    s_test.go:3: it is left\n" + strings.Repeat("a log\n", 7) + "\n"},
		"a panic": {pass + `{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Test":"TestC","Output":"panic: boom\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}`, "1 passed, 1 failed", "--- FAIL: p (a panic, TestMain or the time limit)\npanic: boom\n"},
		"TestMain": {pass + `{"Action":"output","Package":"p","Output":"it is left\n"}` + "\n" + `{"Action":"fail","Package":"p","Elapsed":0.1}`,
			"1 passed, 1 failed", "Failed:\n  p (a panic, TestMain or the time limit)\n--- FAIL: p (a panic, TestMain or the time limit)\nit is left\n"},
	} {
		var out bytes.Buffer
		s := newSummary(&out)
		if err := s.read(strings.NewReader(c.in)); err != nil {
			t.Fatal(name, err)
		}
		if got := s.end(); got != c.want || !strings.Contains(out.String(), c.shows) {
			t.Errorf("%s: %q, want %q; printed:\n%s", name, got, c.want, out.String())
		}
	}
}

// The form of the events is the go tool's own.
func TestRealEvents(t *testing.T) {
	in, err := exec.Command("go", "test", "-json", "-run", "^TestSummary$", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := newSummary(&bytes.Buffer{})
	if err := s.read(bytes.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if got := s.end(); got != "1 passed, 0 failed" {
		t.Error(got)
	}
}

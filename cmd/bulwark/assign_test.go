package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
)

func TestParseAssignment(t *testing.T) {
	for arg, want := range map[string]assignment{
		"A=b":           {name: "A", text: "b"},
		"A=":            {name: "A"},
		"A=b=c":         {name: "A", text: "b=c"},
		"A= @b":         {name: "A", text: " @b"},
		"A=--":          {name: "A", text: "--"},
		"A=-":           {name: "A", from: fromStdin},
		"A=@f":          {name: "A", from: fromFile, text: "f"},
		"_a9=ü":         {name: "_a9", text: "ü"},
		"URL=x://u:p@h": {name: "URL", text: "x://u:p@h"},
	} {
		if got, err := parseAssignment(arg); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", arg, got, err, want)
		}
	}
}

func TestParseAssignmentRefused(t *testing.T) {
	for _, arg := range []string{"", "A", "=b", "9A=b", "A B=c", "PORT=80", "BULWARK_X=1", "A=@", "A=a\x00b", "A=" + strings.Repeat("x", seal.MaxValue+1)} {
		if _, err := parseAssignment(arg); err == nil {
			t.Errorf("%.20q was taken", arg)
		}
	}
	// A value alone, its name forgotten, may be a secret: no message repeats it.
	for _, secret := range []string{"hunter2", "A=@hunter2"} {
		if _, err := parseAssignments([]string{secret, "B=hunter2", "B=hunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the message %q shows a value", secret, err)
		}
	}
}

func TestParseAssignmentsTogether(t *testing.T) {
	for _, args := range [][]string{{"A=1", "A=2"}, {"A=-", "B=-"}} {
		if _, err := parseAssignments(args); err == nil {
			t.Errorf("%q were taken", args)
		}
	}
}

func TestReadValues(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte("line 1\nline 2\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cli{env: &env{stdin: strings.NewReader("from stdin\n\n"), stderr: &bytes.Buffer{}, cwd: dir, home: dir}}
	got, err := c.readValues(context.Background(), []assignment{{name: "A", text: "a"}, {name: "F", from: fromFile, text: "key.pem"}, {name: "S", from: fromStdin}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[bulwark.ConfigName]string{"A": "a", "F": "line 1\nline 2", "S": "from stdin\n"} {
		if string(got[name]) != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	c.stdin = bytes.NewReader(make([]byte, seal.MaxValue+10))
	if _, err := c.readValues(context.Background(), []assignment{{name: "S", from: fromStdin}}); bulwark.KindOf(err) != bulwark.KindTooLarge {
		t.Errorf("a value that is too long: %v", err)
	}
}

func FuzzParseAssignment(f *testing.F) {
	for _, s := range []string{"A=b", "A=@f", "A=-", "=", "A", "A=b\x00", "PORT=1", "Ä=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAssignment(s)
		if err != nil {
			return
		}
		if _, err := bulwark.ParseConfigName(string(a.name)); err != nil {
			t.Fatalf("%q gave the name %q", s, a.name)
		}
		back := string(a.name) + "=" + map[from]string{fromText: a.text, fromFile: "@" + a.text, fromStdin: "-" + a.text}[a.from]
		if back != s {
			t.Fatalf("%q was read as %q", s, back)
		}
		if a.from == fromText && seal.CheckValue(a.name, []byte(a.text)) != nil {
			t.Fatalf("%q gave a value that cannot be set", s)
		}
	})
}

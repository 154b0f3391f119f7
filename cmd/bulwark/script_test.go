package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulwark-paas/bulwark"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bulwark": main})
}

// fakeKey is where a script's server is kept.
type fakeKey struct{}

// TestScripts runs the program as people do, against a server of the script's own. Beside testscript's commands there are
//
//	push APP [COMMIT]   what a signed git push leads to
//	token               a new login token in $BULWARK_TOKEN
//	forge WHAT          spoil the proofs that the server gives: "answer", "image"
//	lie HOST            give git addresses on another host
//	rotate N            the node makes new keys after each of the next N answers about itself
//	replay              go on giving the keys of now
//	cut                 break the next stream of events off
//	hang                let the next stream of events stop in the middle
//	hung                wait until it does
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "script"), RequireUniqueNames: true, Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"push": func(ts *testscript.TestScript, neg bool, args []string) {
				commit := forgedCommit
				if len(args) > 1 {
					commit = args[1]
				}
				ts.Check(ts.Value(fakeKey{}).(*fake).push(bulwark.AppName(args[0]), ts.Getenv("HOME")+"/.ssh/id_ed25519", commit))
			},
			"token": func(ts *testscript.TestScript, _ bool, _ []string) {
				token, err := ts.Value(fakeKey{}).(*fake).token()
				ts.Check(err)
				ts.Setenv("BULWARK_TOKEN", token)
			},
			"forge": func(ts *testscript.TestScript, _ bool, args []string) {
				setServer(ts, func(f *fake) { f.forge = strings.Join(args, "") })
			},
			"lie": func(ts *testscript.TestScript, _ bool, args []string) {
				setServer(ts, func(f *fake) { f.git = args[0] })
			},
			"rotate": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				setServer(ts, func(f *fake) { f.rotate = n })
			},
			"replay": func(ts *testscript.TestScript, _ bool, _ []string) {
				setServer(ts, func(f *fake) {
					var err error
					f.stale, err = f.ledger.ProjectKeys(context.Background())
					ts.Check(err)
				})
			},
			"cut": func(ts *testscript.TestScript, _ bool, _ []string) { setServer(ts, func(f *fake) { f.cut = true }) },
			"hang": func(ts *testscript.TestScript, _ bool, _ []string) {
				setServer(ts, func(f *fake) { f.hung = make(chan struct{}) })
			},
			"hung": func(ts *testscript.TestScript, _ bool, _ []string) {
				var hung chan struct{}
				setServer(ts, func(f *fake) { hung = f.hung })
				<-hung
			},
			"commit": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Setenv("COMMIT", strings.TrimSpace(ts.ReadFile("stdout")))
			},
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := info.Mode().Perm().String(); got != args[0] {
					ts.Fatalf("%s has mode %s, not %s", args[1], got, args[0])
				}
			},
		}})
}

// setServer changes how a script's server behaves.
func setServer(ts *testscript.TestScript, f func(*fake)) {
	s := ts.Value(fakeKey{}).(*fake)
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func setupScript(e *testscript.Env) error {
	home, dir := filepath.Join(e.WorkDir, "home"), filepath.Join(e.WorkDir, "server")
	for _, d := range []string{home, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	f, err := newFake(dir)
	if err != nil {
		return err
	}
	e.Values[fakeKey{}] = f
	e.Defer(func() { f.Close(); f.ledger.Close() })
	token, err := f.token()
	e.Setenv("HOME", home)
	e.Setenv("URL", strings.Replace(f.URL, "127.0.0.1", "localhost", 1))
	e.Setenv("BULWARK_TOKEN", token)
	e.Setenv("LC_ALL", "C.UTF-8")
	e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	e.Setenv("USER", "eve")
	return err
}

package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
)

// programs is what the stories are played with.
type programs struct {
	bulwark string // the program itself; its helpers are beside it
	engine  string // directory of the engine's programs
	bases   string // directory of the base images
	probe   string // the stories' app, see testdata/probe
}

// shared is the installation that the stories share.
var shared *installation

// with is what they are played with.
var with programs

// names is the name server that installations ask whose a host name is: it has example.org, and knows nobody else.
var names *acmetest.Names

func TestMain(m *testing.M) {
	flag.Parse()
	// Most stories wait most of the time, so more of them run at once than there are processors.
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	code, err := main(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// main runs the tests between the making and the removal of the installation, which are stories themselves.
func main(m *testing.M) (code int, err error) {
	if with, err = environment(); err != nil {
		return 1, err
	}
	sweep(with)
	dir, err := os.MkdirTemp("", "bulwark-e2e-probe-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if with.probe, err = buildProbe(dir); err != nil {
		return 1, err
	}
	if err := os.Mkdir(filepath.Join(dir, "names"), 0o700); err != nil {
		return 1, err
	}
	if names, err = acmetest.StartNames(filepath.Join(dir, "names"), "example.org"); err != nil {
		return 1, err
	}
	defer names.Stop()
	began := time.Now()
	// The name is a process's own, so that two runs at once do not meet.
	if shared, err = newInstallation(with, fmt.Sprintf("e2e-%d", os.Getpid())); err != nil {
		return 1, fmt.Errorf("the installation does not start: %w", err)
	}
	fmt.Fprintf(os.Stderr, "e2e: installed and started in %.1f s\n", time.Since(began).Seconds())
	code = m.Run()
	if code != 0 && os.Getenv("BULWARK_E2E_KEEP") == "" {
		fmt.Fprintln(os.Stderr, shared.logs())
	}
	if os.Getenv("BULWARK_E2E_KEEP") != "" {
		return code, fmt.Errorf("left running because of BULWARK_E2E_KEEP: %s", shared.root)
	}
	began = time.Now()
	logs := shared.logs()
	if err := shared.down(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, logs)
	}
	fmt.Fprintf(os.Stderr, "e2e: stopped and removed in %.1f s\n", time.Since(began).Seconds())
	return code, nil
}

// environment reads what `make test` sets. Nothing is skipped: a suite that is green because it did not run is worse than
// none.
func environment() (programs, error) {
	p := programs{engine: os.Getenv("BULWARK_ENGINE_BIN"), bases: os.Getenv("BULWARK_BASES")}
	bin := os.Getenv("BULWARK_BIN_DIR")
	if os.Geteuid() != 0 {
		return p, fmt.Errorf("the end-to-end tests install the platform, so they run as root: make test")
	}
	for _, v := range []struct{ name, value, file string }{
		{"BULWARK_BIN_DIR", bin, "libexec/bulwark/bulwark-init"}, {"BULWARK_ENGINE_BIN", p.engine, "runc"}, {"BULWARK_BASES", p.bases, ""},
	} {
		if v.value == "" {
			return p, fmt.Errorf("%s is not set; `make test` sets it, after it has built what it names", v.name)
		}
		if _, err := os.Stat(filepath.Join(v.value, v.file)); err != nil {
			return p, fmt.Errorf("%s: %w; `make test` builds it", v.name, err)
		}
	}
	p.bulwark = filepath.Join(bin, "bin", "bulwark")
	// Every user of the installation executes the programs.
	for dir := p.bulwark; dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o001 == 0 {
			return p, fmt.Errorf("BULWARK_BIN_DIR: not everybody can pass %s (%v); give a copy elsewhere, as `make test` does", dir, err)
		}
	}
	return p, nil
}

// buildProbe builds the stories' app here, so that deploying it takes no compiler.
func buildProbe(dir string) (string, error) {
	path := filepath.Join(dir, "probe")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the stories' app does not build: %w\n%s", err, out)
	}
	return path, nil
}

// TestStories plays the stories that leave the platform as it is. They run beside each other, as users do.
func TestStories(t *testing.T) { play(t, "script") }

// TestFaults plays the stories in which something of the platform dies, or is tampered with: one at a time, and after them, two at a time,
// those that begin with an installation of their own.
func TestFaults(t *testing.T) { play(t, "faults") }

func play(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("there are no stories", err)
	}
	p := &player{T: t, alone: dir != "script", apart: map[string]bool{}, turns: make(chan struct{}, 2)}
	for _, f := range files {
		// What runs beside others must not take the platform from under them.
		if b, err := os.ReadFile(f); dir == "script" && (err != nil || bytes.Contains(b, []byte("\nkill9 "))) {
			t.Errorf("%s kills processes that other stories use (%v): it belongs to testdata/faults", f, err)
		} else if dir != "script" && begins.Match(b) {
			p.apart[strings.TrimSuffix(filepath.Base(f), ".txtar")] = true
		}
	}
	testscript.RunT(p, testscript.Params{Files: files, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: setup, Cmds: commands(), Condition: condition})
}

// begins matches a story whose first command makes an installation for it alone.
var begins = regexp.MustCompile(`^(#[^\n]*\n|\n)*(another|broken) `)

func condition(cond string) (bool, error) { return false, fmt.Errorf("there is no condition %q", cond) }

// player is a test that says how long its stories took, and can keep them from running beside each other.
type player struct {
	*testing.T
	alone bool
	apart map[string]bool // of those that are played alone, these have what they need to themselves
	turns chan struct{}
}

// Run implements [testscript.T].
func (p *player) Run(name string, f func(testscript.T)) {
	p.T.Run(name, func(t *testing.T) {
		f(&player{T: t, alone: p.alone && !p.apart[name], apart: p.apart, turns: p.turns})
	})
}

// Parallel implements [testscript.T].
func (p *player) Parallel() {
	if p.alone {
		return
	}
	p.T.Parallel()
	if p.apart[filepath.Base(p.Name())] { // what dies there is timed: not too many at once
		p.turns <- struct{}{}
		p.Cleanup(func() { <-p.turns })
	}
}

// Verbose implements [testscript.T].
func (p *player) Verbose() bool { return testing.Verbose() }

// unique makes a name for an app from a script's.
func unique(script, suffix string) string {
	return strings.Trim(strings.ReplaceAll(strings.TrimSuffix(script, ".txtar"), "_", "-")+"-"+suffix, "-")
}

package engine

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain makes this program a shim too, which lives until it is ended.
func TestMain(m *testing.M) {
	if os.Getenv("ENGINE_TEST_SHIM") != "" {
		os.Stdout.Write([]byte("up"))
		select {}
	}
	os.Exit(m.Run())
}

// The engine was killed while it started a shim: the shim lived for ever.
func TestEndLost(t *testing.T) {
	state := t.TempDir()
	const socket = "/run/of/ours.sock"
	known := filepath.Join(state, "io.containerd.runtime.v2.task", "bulwark", "known")
	if err := os.MkdirAll(known, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(known, "bootstrap.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(args ...string) *exec.Cmd {
		c := &exec.Cmd{Path: "/proc/self/exe", Args: args, Env: []string{"ENGINE_TEST_SHIM=1"}}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil { // it is what it is to be
			t.Fatal(err)
		}
		return c
	}
	shim := func(id, socket string, more ...string) *exec.Cmd {
		return start(append([]string{"/bin/containerd-shim-runc-v2", "-namespace", "bulwark", "-id", id, "-address", socket}, more...)...)
	}
	ours := map[string]*exec.Cmd{"begun": shim("lost", socket), "starting": shim("lost", socket, "start")}
	others := map[string]*exec.Cmd{"known": shim("known", socket), "of another engine": shim("lost", "/run/containerd.sock"),
		"another program": start("/bin/sleep", "-namespace", "bulwark", "-id", "lost", "-address", socket), "somewhere else": shim("../lost", socket)}
	if n, err := EndLost(state, socket); n != len(ours) || err != nil {
		t.Errorf("%d ended, %v", n, err)
	}
	for name, c := range ours {
		if err := c.Wait(); err == nil || c.ProcessState.String() != "signal: killed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range others {
		if lost(c.Process.Pid, state, socket) {
			t.Errorf("%s is taken for lost", name)
		}
		if err := c.Process.Kill(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Wait()
	}
	if n, err := EndLost(state, socket); n != 0 || err != nil {
		t.Errorf("again: %d ended, %v", n, err)
	}
}

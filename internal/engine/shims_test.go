package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
)

// TestMain makes this program a shim too, which lives until it is ended.
func TestMain(m *testing.M) {
	if os.Getenv("ENGINE_TEST_SHIM") != "" {
		os.Stdout.Write([]byte("up"))
		select {}
	}
	os.Exit(m.Run())
}

// startProgram starts a program that lives until it is ended, and is called what the arguments say.
func startProgram(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
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

func startShim(t *testing.T, id, socket string, more ...string) *exec.Cmd {
	t.Helper()
	return startProgram(t, append([]string{"/bin/containerd-shim-runc-v2", "-namespace", "bulwark", "-id", id, "-address", socket}, more...)...)
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
	shim := func(id, socket string, more ...string) *exec.Cmd { return startShim(t, id, socket, more...) }
	ours := map[string]*exec.Cmd{"begun": shim("lost", socket), "starting": shim("lost", socket, "start")}
	others := map[string]*exec.Cmd{"known": shim("known", socket), "of another engine": shim("lost", "/run/containerd.sock"),
		"another program": startProgram(t, "/bin/sleep", "-namespace", "bulwark", "-id", "lost", "-address", socket), "somewhere else": shim("../lost", socket)}
	if n, err := EndLost(state, socket); n != len(ours) || err != nil {
		t.Errorf("%d ended, %v", n, err)
	}
	for name, c := range ours {
		if err := c.Wait(); err == nil || c.ProcessState.String() != "signal: killed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range others {
		if (shimsOf{state: state, socket: socket}).lost(c.Process.Pid) {
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

// failing stands for a containerd whose disk takes nothing any more when it has started a shim.
type failing struct{ api.TasksClient }

func (failing) Create(context.Context, *api.CreateTaskRequest, ...grpc.CallOption) (*api.CreateTaskResponse, error) {
	return nil, errors.New("no space left on device")
}

// The shim lived for ever; and those that are being started for others meanwhile must live.
func TestFailedCreateLeavesNoShim(t *testing.T) {
	const socket = "/run/of/ours.sock"
	lost, other := startShim(t, "lost", socket), startShim(t, "other", socket)
	s := &tasks{local: failing{}, shims: shimsOf{state: t.TempDir(), socket: socket}, busy: map[string]chan struct{}{}}
	if _, err := s.Create(namespaces.WithNamespace(t.Context(), "bulwark"), &api.CreateTaskRequest{ContainerID: "lost"}); err == nil || err.Error() != "no space left on device" {
		t.Error(err)
	}
	if err := lost.Wait(); err == nil || lost.ProcessState.String() != "signal: killed" {
		t.Error(err)
	}
	if line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(other.Process.Pid), "cmdline")); err != nil || len(line) == 0 {
		t.Error("another one was ended:", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Error(err)
	}
	other.Wait()
}

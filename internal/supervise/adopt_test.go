package supervise

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// supervisor starts one as a process of its own and waits until it is ready.
func (b *bed) supervisor() *exec.Cmd {
	b.t.Helper()
	specs, err := json.Marshal(b.specs)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.inst.Root, "specs.json"), specs, 0o600); err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(b.binary, "play-supervisor", b.inst.Root)
	log, err := os.OpenFile(b.inst.Root+"/supervisor.out", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		b.t.Fatalf("the supervisor said %q", line)
	}
	return cmd
}

func (b *bed) kill9(cmd *exec.Cmd) {
	b.t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		b.t.Fatal(err)
	}
	cmd.Wait()
}

// running returns the processes that run with the arguments of one of the table.
func (b *bed) running(name string) []string {
	var pids []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		line, _ := os.ReadFile(d + "/cmdline")
		if strings.HasSuffix(string(line), "\x00process\x00"+name+"\x00--root\x00"+b.inst.Root+"\x00") {
			pids = append(pids, filepath.Base(d))
		}
	}
	return pids
}

func adoptionBed(t *testing.T) *bed {
	b := newBed(t)
	node, server, edge := b.spec("node", 0), b.spec("server", b.inst.User(install.Server)), b.spec("edge", b.inst.User(install.Edge))
	node.Keep = true
	node.Listeners = append(node.Listeners, Listener{Name: "verbs", Network: "unix", Address: b.inst.Socket(install.NodeVerbs), Mode: 0o600})
	edge.Overlap = true
	b.specs = []Spec{node, server, edge}
	return b
}

func TestKilledSupervisorIsReplacedUnderLoad(t *testing.T) {
	b := adoptionBed(t)
	first := b.supervisor()
	b.must("edge", "/store?name=table&value=one")
	b.must("node", "/store?name=key&value=k")
	b.until("edge", "storing", func(s Status) bool { return len(s.Stored) == 1 })
	b.until("node", "storing", func(s Status) bool { return len(s.Stored) == 1 })
	node, server, edge := b.info("node").PID, b.info("server").PID, b.info("edge").PID
	stopEdge, stopServer := b.load("edge"), b.load("server")
	for range 3 {
		b.kill9(first)
		first = b.supervisor()
	}
	requests, err := stopEdge()
	if err != nil || requests == 0 {
		t.Errorf("edge: after %d requests: %v", requests, err)
	}
	t.Logf("edge: %d requests over three killed supervisors", requests)
	// The server restarts without overlap; it drains, and the socket waits. So nothing is lost here either.
	if requests, err := stopServer(); err != nil || requests == 0 {
		t.Errorf("server: after %d requests: %v", requests, err)
	}
	b.until("edge", "alone", func(Status) bool { return len(b.running("edge")) == 1 })
	if i := b.info("node"); i.PID != node {
		t.Errorf("the node was replaced: %d, was %d", i.PID, node)
	}
	if i := b.info("server"); i.PID == server {
		t.Error("the server was not replaced")
	}
	if i := b.info("edge"); i.PID == edge || i.Stored["table"] != "one" {
		t.Errorf("the edge: %+v", i)
	}
	if s := b.status("node"); !s.Adopted || s.State != "running" || !slices.Equal(s.Stored, []string{"key"}) {
		t.Errorf("the node's status: %+v", s)
	}
	if pids := slices.Concat(b.running("node"), b.running("server")); len(pids) != 2 {
		t.Errorf("running: %q", pids)
	}
	// The end of an adopted process is seen, and it is started again with what it had stored.
	b.get("node", "/crash")
	if i := b.info("node"); i.PID == node || i.Stored["key"] != "k" {
		t.Errorf("the node after its crash: %+v", i)
	}
}

func TestStartNotInTheStateFileIsFound(t *testing.T) {
	b := adoptionBed(t)
	first := b.supervisor()
	node := b.info("node").PID
	b.kill9(first)
	// As if the kill had come before the file was written: listeners are known, the processes are not.
	path := b.inst.StateFile()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		t.Fatal(err)
	}
	for name, p := range st.Processes {
		p.Children = nil
		st.Processes[name] = p
	}
	if text, err = json.Marshal(st); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.supervisor()
	if i := b.info("node"); i.PID != node {
		t.Errorf("a second node: %d beside %d", i.PID, node)
	}
	b.until("edge", "alone", func(Status) bool { return len(b.running("edge")) == 1 })
}

// Without the file the sockets cannot be told; the processes are found and make room.
func TestLostStateFile(t *testing.T) {
	b := adoptionBed(t)
	first := b.supervisor()
	node := b.info("node").PID
	b.kill9(first)
	if err := os.Remove(b.inst.StateFile()); err != nil {
		t.Fatal(err)
	}
	b.supervisor()
	for _, name := range []string{"node", "server", "edge"} {
		if i := b.info(name); i.PID == node {
			t.Errorf("%s: the old process answers, on a socket that we did not get", name)
		}
		if pids := b.running(name); len(pids) != 1 {
			t.Errorf("%s: running are %q", name, pids)
		}
	}
}

func TestReusedPIDIsNotAdopted(t *testing.T) {
	b := adoptionBed(t)
	bystander := exec.Command("/bin/sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		bystander.Process.Signal(syscall.SIGHUP) // a signal that nobody else sends
		if err := bystander.Wait(); err == nil || err.Error() != "signal: hangup" {
			t.Errorf("the bystander ended by %v", err)
		}
	}()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(state{Boot: string(boot), Processes: map[string]leftState{
		"node": {Children: []leftChild{{PID: bystander.Process.Pid, Started: 1}}},
	}})
	if err == nil {
		err = os.WriteFile(b.inst.StateFile(), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.supervisor()
	if s := b.status("node"); s.Adopted || s.PID == bystander.Process.Pid {
		t.Errorf("status: %+v", s)
	}
}

func TestLeaveLeavesTheProcesses(t *testing.T) {
	b := adoptionBed(t)
	first := b.supervisor()
	edge := b.info("edge").PID
	if err := NewClient(b.inst).Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	if i := b.info("edge"); i.PID != edge {
		t.Fatalf("the edge is %d, was %d", i.PID, edge)
	}
	_, err := NewClient(b.inst).Status(t.Context())
	if bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("a supervisor that is gone: %v", err)
	}
	b.supervisor()
	b.until("edge", "alone", func(Status) bool { return len(b.running("edge")) == 1 })
	if i := b.info("edge"); i.PID == edge {
		t.Error("the edge was not replaced")
	}
}

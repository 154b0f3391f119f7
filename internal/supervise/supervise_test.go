package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/install"
	"golang.org/x/sys/unix"
)

func TestChildHasNoMoreThanItNeeds(t *testing.T) {
	b := newBed(t)
	edge, dial, node := b.spec("edge", b.inst.User(install.Edge)), b.spec("dial", b.inst.User(install.Dial)), b.spec("node", 0)
	dial.Caps = []uintptr{unix.CAP_SYS_ADMIN}
	edge.Threads = 600
	edge.Apart = true
	edge.Env = []string{"EXTRA=1"}
	b.specs = []Spec{node, dial, edge}
	b.run()
	check := func(name string, user uint32, caps, bounding, nnp string) {
		t.Helper()
		i := b.info(name)
		id := fmt.Sprint(user)
		want := map[string]string{
			"Uid": strings.Join([]string{id, id, id, id}, "\t"), "Gid": strings.Join([]string{id, id, id, id}, "\t"),
			"Groups": "", "CapEff": caps, "CapPrm": caps, "NoNewPrivs": nnp, "Umask": "0077",
		}
		if bounding != "" {
			want["CapBnd"] = bounding
		}
		for k, v := range want {
			if i.Status[k] != v {
				t.Errorf("%s: %s is %q, want %q", name, k, i.Status[k], v)
			}
		}
		if i.Dir != "/" {
			t.Errorf("%s: works in %s", name, i.Dir)
		}
	}
	const none, admin = "0000000000000000", "0000000000200000"
	check("edge", b.inst.User(install.Edge), none, none, "1")
	check("dial", b.inst.User(install.Dial), admin, admin, "1")
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if e, d := b.info("edge").Network, b.info("dial").Network; e == host || e == "" || d != host {
		t.Errorf("edge is in %s and dial in %s, the host's network is %s", e, d, host)
	}
	self, _ := os.ReadFile("/proc/self/status")
	full := strings.TrimSpace(strings.SplitN(strings.SplitN(string(self), "CapEff:", 2)[1], "\n", 2)[0])
	check("node", 0, full, full, "0")

	i := b.info("edge")
	env := []string{"BULWARK_ROOT=" + b.inst.Root, "EXTRA=1", "LISTEN_FDNAMES=http", "LISTEN_FDS=1",
		"NOTIFY_SOCKET=" + b.inst.NotifySocket("edge"), "TZ=UTC"}
	slices.Sort(i.Env)
	if !slices.Equal(i.Env, env) {
		t.Errorf("the environment is %q, want %q", i.Env, env)
	}
	limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", i.PID))
	want := map[string]string{"Max core file size": "1"}
	if bits, err := strconv.ParseUint(full, 16, 64); err != nil || bits&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		want["Max processes"] = "600" // where root lacks the capability, as in some containers, it cannot be set
	}
	for name, want := range want {
		if got := limit(string(limits), name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if stdin, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", i.PID)); stdin != "/dev/null" {
		t.Errorf("stdin is %s", stdin)
	}
	// The supervisor's own threads are as they were.
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, task := range tasks {
		if b, _ := os.ReadFile(task); strings.Contains(string(b), "NoNewPrivs:\t1") && !strings.Contains(task, fmt.Sprintf("/%d/", os.Getpid())) {
			t.Errorf("a thread that started a process lives on: %s", task)
		}
	}
}

func limit(limits, name string) string {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Fields(rest)[0]
		}
	}
	return ""
}

func TestCrashIsRestartedAndStoreSurvives(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("edge", b.inst.User(install.Edge))}
	b.run()
	b.must("edge", "/store?name=table&value=one")
	b.must("edge", "/store?name=table&value=two")
	b.must("edge", "/store?name=other&value=x")
	b.must("edge", "/store?name=gone&value=x")
	b.until("edge", "storing three", func(s Status) bool { return len(s.Stored) == 3 })
	b.must("edge", "/remove?name=gone")
	b.until("edge", "storing two", func(s Status) bool { return slices.Equal(s.Stored, []string{"other", "table"}) })
	first := b.info("edge")
	for n := range 4 {
		if _, err := b.get("edge", "/crash"); err == nil {
			t.Fatal("the crash had an answer")
		}
		i := b.info("edge") // waits in the backlog for the next process
		if i.PID == first.PID || i.Stored["table"] != "two" || i.Stored["other"] != "x" {
			t.Fatalf("after crash %d: %+v", n, i)
		}
		if want := []string{"http", "other", "table"}; !slices.Equal(i.FDs, want) {
			t.Fatalf("descriptors %q, want %q", i.FDs, want)
		}
	}
	if s := b.status("edge"); s.Restarts != 4 || s.LastExit != "signal killed" || s.State == "waiting" {
		t.Fatalf("status: %+v", s)
	}
}

func TestStoreHasALimit(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("edge", b.inst.User(install.Edge))} // 4
	b.run()
	for n := range 6 {
		b.must("edge", fmt.Sprintf("/store?name=n%d&value=x", n))
	}
	b.must("edge", "/store?name=http&value=x") // a listener's name
	s := b.until("edge", "refusing three", func(s Status) bool { return s.Refused == 3 })
	if !slices.Equal(s.Stored, []string{"n0", "n1", "n2", "n3"}) {
		t.Fatalf("stored %q", s.Stored)
	}
}

func TestStrangerCannotSpeakForAProcess(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("edge", b.inst.User(install.Edge))}
	b.run()
	path := b.inst.NotifySocket("edge")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != b.inst.User(install.Edge) {
		t.Fatalf("the socket: %v, %v", st, err)
	}
	// We are root and pass the mode; the kernel says that we are not the process.
	f, err := fdpass.Sealed("evil", []byte("evil"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sendStore(path, "table", f); err != nil {
		t.Fatal(err)
	}
	s := b.until("edge", "refusing it", func(s Status) bool { return s.Refused == 1 })
	if len(s.Stored) != 0 {
		t.Fatalf("stored %q", s.Stored)
	}
}

func TestBackoff(t *testing.T) {
	d := Backoff{}.orDefault()
	var got []time.Duration
	for n := range 11 {
		got = append(got, d.wait(n)/time.Millisecond)
	}
	if want := []time.Duration{0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000}; !slices.Equal(got, want) {
		t.Fatalf("got %d, want %d", got, want)
	}
}

// load asks for /info on a new connection each time, and stops with the first error.
func (b *bed) load(process string) (stop func() (requests int64, err error)) {
	var wg sync.WaitGroup
	var count atomic.Int64
	end := make(chan struct{})
	errs := make(chan error, 8)
	for range 4 {
		wg.Go(func() {
			for !closed(end) {
				if _, err := b.get(process, "/info"); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	return func() (int64, error) {
		close(end)
		wg.Wait()
		select {
		case err := <-errs:
			return count.Load(), err
		default:
			return count.Load(), nil
		}
	}
}

func TestOverlapRestartDropsNothing(t *testing.T) {
	b := newBed(t)
	edge := b.spec("edge", b.inst.User(install.Edge))
	edge.Overlap = true
	b.specs = []Spec{edge}
	b.run()
	b.must("edge", "/store?name=table&value=one")
	b.until("edge", "storing", func(s Status) bool { return len(s.Stored) == 1 })
	// A request that is under way all the time.
	body, feed := net.Pipe()
	slow := make(chan string, 1)
	go func() {
		r, err := b.slowly(body)
		if err != nil {
			slow <- err.Error()
			return
		}
		defer r.Body.Close()
		var pid int
		fmt.Fscan(r.Body, &pid)
		slow <- strconv.Itoa(pid)
	}()
	if _, err := feed.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	old := b.info("edge").PID
	stop := b.load("edge")
	for range 5 {
		if err := NewClient(b.inst).Restart(t.Context(), "edge"); err != nil {
			t.Fatal(err)
		}
	}
	requests, err := stop()
	if err != nil || requests == 0 {
		t.Fatalf("after %d requests: %v", requests, err)
	}
	feed.Close()
	if got := <-slow; got != strconv.Itoa(old) {
		t.Fatalf("the request that was under way: %s, want the old process %d", got, old)
	}
	i := b.info("edge")
	if i.PID == old || i.Stored["table"] != "one" {
		t.Fatalf("after the restart: %+v", i)
	}
	t.Logf("%d requests over 5 restarts", requests)
}

// TestOverlapFollowsOneThatLeaves has a process leave that nobody here told to, and that has long to do: the next one does not wait for it.
func TestOverlapFollowsOneThatLeaves(t *testing.T) {
	b := newBed(t)
	edge := b.spec("edge", b.inst.User(install.Edge))
	edge.Overlap = true
	b.specs = []Spec{edge}
	b.run()
	old := b.info("edge").PID
	body, feed := net.Pipe()
	slow := make(chan error, 1)
	go func() {
		r, err := b.slowly(body)
		if err == nil {
			r.Body.Close()
		}
		slow <- err
	}()
	if _, err := feed.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	stop := b.load("edge")
	if err := syscall.Kill(old, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.until("edge", "running", func(s Status) bool { return s.State == "running" && s.PID != old })
	now := b.info("edge").PID
	if requests, err := stop(); err != nil || requests == 0 || now == old {
		t.Fatalf("%d requests, process %d after %d: %v", requests, now, old, err)
	}
	if n := len(b.running("edge")); n != 2 {
		t.Fatalf("%d processes run, so the old one did not end its work", n)
	}
	feed.Close()
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	b.until("edge", "alone", func(s Status) bool { return len(b.running("edge")) == 1 && s.Restarts == 1 })
}

func TestOverlapRestartThatFailsChangesNothing(t *testing.T) {
	b := newBed(t)
	edge := b.spec("edge", b.inst.User(install.Edge))
	edge.Overlap = true
	edge.Boot = time.Second
	flag := b.inst.Root + "/play"
	edge.Env = []string{"PLAY=" + flag}
	b.specs = []Spec{edge}
	b.run()
	old := b.info("edge").PID
	for _, how := range []string{"fail", "hang"} {
		if err := os.WriteFile(flag, []byte(how), 0o644); err != nil {
			t.Fatal(err)
		}
		err := NewClient(b.inst).Restart(t.Context(), "edge")
		if bulwark.KindOf(err) != bulwark.KindUnavailable || !strings.Contains(err.Error(), "edge.log") {
			t.Fatalf("%s: got %v", how, err)
		}
		b.until("edge", "alone", func(Status) bool { return len(b.running("edge")) == 1 })
		if now := b.info("edge").PID; now != old {
			t.Fatalf("%s: process %d serves, not %d", how, now, old)
		}
		// The socket is shared: had the hand-over set it to blocking, the old process would hang in accept.
		if !b.nonblocking(old) {
			t.Fatalf("%s: the socket blocks now", how)
		}
	}
	if s := b.status("edge"); s.PID != old || s.State != "running" {
		t.Fatalf("status: %+v", s)
	}
}

// nonblocking tells whether the listening socket of a process is in the mode that the process chose.
func (b *bed) nonblocking(pid int) bool {
	b.t.Helper()
	var st state
	text, err := os.ReadFile(b.inst.StateFile())
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	number := openInodes(pid)[st.Processes["edge"].Listeners[0].inode]
	text, err = os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, number))
	if err != nil {
		b.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "flags:")
	flags, err := strconv.ParseInt(strings.Fields(rest)[0], 8, 64)
	if err != nil {
		b.t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

func TestPlainRestartKeepsTheSocket(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("server", b.inst.User(install.Server))}
	b.run()
	old := b.info("server").PID
	if err := NewClient(b.inst).Restart(t.Context(), "server"); err != nil {
		t.Fatal(err)
	}
	if syscall.Kill(old, 0) != syscall.ESRCH {
		t.Error("the old process lives")
	}
	if b.info("server").PID == old {
		t.Error("the old process answers")
	}
	err := NewClient(b.inst).Restart(t.Context(), "nobody")
	if bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("an unknown process: %v", err)
	}
}

func TestDownAsksTheNodeFirstAndStopsInReverse(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("server", b.inst.User(install.Server)), b.spec("edge", b.inst.User(install.Edge))}
	fail := errors.New("the node does not answer")
	asked := 0
	b.run(func(c *Config) {
		c.BeforeDown = func(context.Context) error { asked++; return fail }
	})
	pids := []int{b.info("server").PID, b.info("edge").PID}
	if err := NewClient(b.inst).Down(t.Context(), false); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Fatalf("got %v", err)
	}
	b.info("edge")
	if err := NewClient(b.inst).Down(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if syscall.Kill(pid, 0) != syscall.ESRCH {
			t.Errorf("process %d lives", pid)
		}
	}
	if unlock, err := lock(b.inst); err != nil {
		t.Errorf("the next supervisor would be refused: %v", err)
	} else {
		unlock()
	}
	if asked != 2 {
		t.Errorf("the node was asked %d times", asked)
	}
	if left, _ := filepath.Glob(b.inst.RunDir() + "/*.sock"); len(left) > 0 {
		t.Errorf("sockets left: %q", left)
	}
}

// The node hangs: who asked politely waits, and somebody else may still end the platform.
func TestANodeThatHangsCannotKeepThePlatformUp(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("server", b.inst.User(install.Server))}
	asked := make(chan struct{}, 1)
	stop := b.run(func(c *Config) {
		c.BeforeDown = func(ctx context.Context) error { asked <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	})
	b.info("server")
	polite := make(chan error, 1)
	go func() { polite <- NewClient(b.inst).Down(t.Context(), false) }()
	<-asked
	stop()
	if err := <-polite; err != nil {
		t.Errorf("the platform is down, and the one who asked for it is told: %v", err)
	}
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("server", b.inst.User(install.Server))}
	b.run()
	err := Run(t.Context(), Config{Installation: b.inst, Processes: b.specs, Binary: b.binary})
	if bulwark.KindOf(err) != bulwark.KindConflict || !strings.Contains(err.Error(), "running already") {
		t.Fatalf("got %v", err)
	}
	b.info("server")
}

func TestTakenPortNamesTheHolderAndTheFlag(t *testing.T) {
	b := newBed(t)
	b.specs = []Spec{b.spec("server", b.inst.User(install.Server))}
	l, err := net.Listen("tcp", b.addr["server"])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Run(t.Context(), Config{Installation: b.inst, Processes: b.specs, Binary: b.binary})
	if bulwark.KindOf(err) != bulwark.KindConflict {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{fmt.Sprintf("process %d", os.Getpid()), "--http-port"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestUnixSocketIsForItsPeerAlone(t *testing.T) {
	b := newBed(t)
	edge := b.spec("edge", b.inst.User(install.Edge))
	for n, network := range []string{"unix", "unixpacket"} {
		edge.Listeners = append(edge.Listeners, Listener{Name: fmt.Sprintf("control%d", n), Network: network,
			Address: filepath.Join(b.inst.RunDir(), network+".sock"), Owner: b.inst.User(install.Server), Mode: 0o600})
	}
	b.specs = []Spec{edge}
	b.run()
	for _, network := range []string{"unix", "unixpacket"} {
		path := filepath.Join(b.inst.RunDir(), network+".sock")
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != b.inst.User(install.Server) {
			t.Errorf("%s: %v, %v", path, st, err)
		}
		conn, err := net.Dial(network, path)
		if err != nil {
			t.Error(err)
			continue
		}
		conn.Close()
	}
}

func TestTableIsValid(t *testing.T) {
	b := newBed(t)
	table := Table(b.inst, Extra{SSLCertFile: "/etc/ca.pem"})
	var names []string
	users := map[uint32]string{}
	for _, s := range table {
		names = append(names, s.Name)
		if err := s.valid(); err != nil {
			t.Error(err)
		}
		if other, ok := users[s.User]; ok && s.User != 0 {
			t.Errorf("%s and %s are one user", s.Name, other)
		}
		users[s.User] = s.Name
		if s.Privileged && s.Name != "node" && s.Name != "containerd" && s.Name != "posture" {
			t.Errorf("%s is privileged", s.Name)
		}
		if len(s.Caps) > 0 && s.Name != "dial" {
			t.Errorf("%s has capabilities", s.Name)
		}
		if len(s.Listeners)+s.Store > 1024 {
			t.Errorf("%s may be handed more descriptors than fdpass takes", s.Name)
		}
	}
	if !slices.Equal(names, install.Processes()) {
		t.Errorf("the table has %q, install %q", names, install.Processes())
	}
}

package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/install"
	"golang.org/x/sys/unix"
)

// The test binary plays the processes ("process NAME --root ROOT", the real command line) and, for the tests that kill
// it, the supervisor.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "process" {
		playProcess()
	}
	if len(os.Args) == 3 && os.Args[1] == "play-supervisor" {
		playSupervisor(os.Args[2])
	}
	os.Exit(m.Run())
}

// playSupervisor is `bulwark up`: it prints a line when all is ready.
func playSupervisor(root string) {
	inst, err := install.Open(root)
	if err == nil {
		var specs []Spec
		specs, err = readSpecs(root)
		if err == nil {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
			defer stop()
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			err = Run(ctx, Config{Installation: inst, Processes: specs, Log: log, Ready: func() { fmt.Println("ready") }})
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func readSpecs(root string) (specs []Spec, err error) {
	b, err := os.ReadFile(filepath.Join(root, "specs.json"))
	if err == nil {
		err = json.Unmarshal(b, &specs)
	}
	return specs, err
}

// sendStore asks for f to be kept, as sd_pid_notify_with_fds(3) does it.
func sendStore(path, name string, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendmsg(fd, []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(int(f.Fd())), &unix.SockaddrUnix{Name: path}, 0)
}

// info is what a played process says of itself.
type info struct {
	Network string            `json:"network"` // its namespace
	PID     int               `json:"pid"`
	Env     []string          `json:"env"`
	Dir     string            `json:"dir"`
	Args    []string          `json:"args"`
	Status  map[string]string `json:"status"`
	Umask   string            `json:"umask"`
	FDs     []string          `json:"fds"`    // LISTEN_FDNAMES, in order
	Stored  map[string]string `json:"stored"` // content by name
}

// player is a process that listens on "http".
type player struct {
	notifier *fdpass.Notifier
	files    map[string][]*os.File
	kept     []*os.File // the contract: what is stored stays open, so that it survives the supervisor too
}

func playProcess() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	play, _ := os.ReadFile(os.Getenv("PLAY"))
	if string(play) == "fail" {
		fail(errors.New("told to fail"))
	}
	files, err := fdpass.Listeners(os.Environ())
	fail(err)
	notifier, err := fdpass.NewNotifier(os.Getenv("NOTIFY_SOCKET"))
	fail(err)
	p := &player{notifier: notifier, files: files}
	l, err := net.FileListener(files["http"][0])
	fail(err)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if string(play) == "hang" {
		<-term
		os.Exit(0)
	}
	fail(notifier.Notify("READY=1"))
	var open sync.WaitGroup
	srv := &http.Server{Handler: p.routes(), ConnState: func(_ net.Conn, st http.ConnState) {
		switch st {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Done()
		}
	}}
	serve := &drainer{Listener: l, stop: make(chan struct{}), stopped: make(chan struct{})}
	go srv.Serve(serve)
	<-term
	// How a process that promises to drop nothing ends. First the end of accepting, so that each connection that was
	// accepted is known to the server. Then not Shutdown: it closes a connection whose first request it reads after it
	// was called (net/http, conn.serve). Each connection gets its answer and is closed then.
	close(serve.stop)
	l.Close()
	_ = notifier.Notify("STOPPING=1") // the supervisor may be gone
	<-serve.stopped
	srv.SetKeepAlivesEnabled(false)
	open.Wait()
	os.Exit(0)
}

// drainer tells when Serve has asked for the last connection, by when it has taken note of the one before.
type drainer struct {
	net.Listener
	stop, stopped chan struct{}
}

func (d *drainer) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil && closed(d.stop) {
		close(d.stopped)
	}
	return c, err
}

func (p *player) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/info", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(p.info()) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // ends when the test lets it
		fmt.Fprint(w, os.Getpid())
	})
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	mux.HandleFunc("/store", func(w http.ResponseWriter, r *http.Request) {
		f, err := fdpass.Sealed("x", []byte(r.FormValue("value")))
		if err == nil {
			err = sendStore(os.Getenv("NOTIFY_SOCKET"), r.FormValue("name"), f)
			p.kept = append(p.kept, f)
		}
		if err != nil {
			http.Error(w, err.Error(), 500)
		}
	})
	mux.HandleFunc("/remove", func(w http.ResponseWriter, r *http.Request) { p.notifier.NotifyRemove(r.FormValue("name")) })
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) { fmt.Println(r.FormValue("line")) })
	return mux
}

// slowly sends a request that is under way, in a process that has begun to read it, until body ends.
func (b *bed) slowly(body io.Reader) (*http.Response, error) {
	r, err := http.NewRequest(http.MethodPost, "http://"+b.addr["edge"]+"/slow", body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Expect", "100-continue") // nothing of the body is sent before
	return b.client.Do(r)
}

func (p *player) info() info {
	i := info{PID: os.Getpid(), Env: os.Environ(), Args: os.Args, Status: map[string]string{}, Stored: map[string]string{}}
	i.Dir, _ = os.Getwd()
	i.Network, _ = os.Readlink("/proc/self/ns/net")
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			i.Status[k] = strings.TrimSpace(v)
		}
	}
	i.FDs = strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for name, files := range p.files {
		for _, f := range files {
			if b, err := fdpass.ReadSealed(f, 1<<20); err == nil {
				i.Stored[name] = string(b)
			}
		}
	}
	return i
}

// bed is an installation with played processes.
type bed struct {
	t      *testing.T
	inst   *install.Installation
	binary string
	specs  []Spec
	addr   map[string]string // of "http", by process
	client *http.Client
}

// newBed makes an installation where other users can get to.
func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "bulwark-sv-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	inst, err := install.Create(install.Options{Name: "svtest", Root: dir + "/root", Etc: dir, Blocks: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := install.Remove(context.Background(), inst); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(inst.Root + "/*.out")
			more, _ := filepath.Glob(inst.LogDir() + "/*")
			for _, l := range append(logs, more...) {
				text, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", filepath.Base(l), text)
			}
		}
	})
	b := &bed{t: t, inst: inst, binary: dir + "/bulwark", addr: map[string]string{}}
	copyFile(t, "/proc/self/exe", b.binary)
	b.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}}
	return b
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// spec is a process with a socket on a free port that stays the same over restarts of the supervisor.
func (b *bed) spec(name string, user uint32) Spec {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	b.addr[name] = addr
	return Spec{Name: name, Args: []string{"process", name, "--root", b.inst.Root}, User: user, Privileged: user == 0, Store: 4,
		Listeners: []Listener{{Name: "http", Network: "tcp", Address: addr, Flag: "--http-port"}}}
}

// run runs a supervisor in this process until the returned function is called, and waits until all is ready.
func (b *bed) run(change ...func(*Config)) (stop func()) {
	b.t.Helper()
	ready := make(chan struct{})
	cfg := Config{Installation: b.inst, Processes: b.specs, Binary: b.binary, Ready: func() { close(ready) },
		Backoff: Backoff{First: time.Millisecond, Most: 4 * time.Millisecond, Reset: time.Hour}}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	select {
	case <-ready:
	case err := <-done:
		b.t.Fatalf("Run: %v", err)
	case <-time.After(30 * time.Second):
		b.t.Fatal("the processes are not ready")
	}
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// get asks a played process; the kernel keeps the request while the process restarts.
func (b *bed) get(process, path string) (string, error) {
	r, err := b.client.Get("http://" + b.addr[process] + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", r.Status, body)
	}
	return string(body), err
}

func (b *bed) must(process, path string) string {
	b.t.Helper()
	s, err := b.get(process, path)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bed) info(process string) info {
	b.t.Helper()
	var i info
	if err := json.Unmarshal([]byte(b.must(process, "/info")), &i); err != nil {
		b.t.Fatal(err)
	}
	return i
}

func (b *bed) status(process string) Status {
	b.t.Helper()
	all, err := NewClient(b.inst).Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == process {
			return s
		}
	}
	b.t.Fatalf("no status of %s", process)
	return Status{}
}

// until asks again until ok; each question is a round trip to the supervisor, so this is not a busy loop.
func (b *bed) until(process string, what string, ok func(Status) bool) Status {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s := b.status(process)
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: not %s: %+v", process, what, s)
		}
	}
}

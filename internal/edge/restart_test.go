package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// successor starts another edge on the rig's sockets with what the store holds.
func (r *rig) successor() (stop func()) { return r.successorWith(func(*Config) {}) }

func (r *rig) successorWith(change func(*Config)) (stop func()) {
	r.t.Helper()
	cfg := r.parts.config(r.t)
	change(&cfg)
	cfg.Restored, cfg.Keeper, cfg.AccessLog, cfg.Grace = r.keeper.take(), r.keeper, r.log, 5*time.Second
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error("Run:", err)
		}
	}
}

// TestSuccessorServesAtOnce has only dial beside it: nobody tells the new edge anything.
func TestSuccessorServesAtOnce(t *testing.T) {
	r := newRig(t, nil)
	begun, hold := make(chan struct{}, 1), make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/slow" {
			begun <- struct{}{}
			<-hold
		}
		io.WriteString(w, "ok")
	})
	app := r.serve("a.example.org", addr)
	slow := make(chan string, 1)
	go func() { _, b := get(t, r.client(true), "https://a.example.org/slow"); slow <- b }()
	<-begun
	stop := r.successor()
	ended := make(chan struct{})
	go func() { r.stop(); close(ended) }()
	// Both accept until the first has closed its copy; every new connection is served by either.
	for range 30 {
		if resp, body := get(t, r.client(true), "https://a.example.org/"); resp.StatusCode != 200 || body != "ok" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
	close(hold)
	if b := <-slow; b != "ok" {
		t.Errorf("the request in flight got %q", b)
	}
	<-ended
	if resp, body := get(t, r.client(false), "https://a.example.org/"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	// The successor knows the table, protects it, and stores again under the other name.
	table, err := r.control.Table(t.Context())
	if err != nil || !sameTable(table, r.table) {
		t.Errorf("%+v %v", table, err)
	}
	r.table.Apps[app] = bulwark.Upstream{Name: "shop"}
	r.table.Generation++
	if err := r.control.PutTable(t.Context(), r.table); bulwark.KindOf(err) != bulwark.KindConflict {
		t.Error(err)
	}
	if err := r.control.PutTable(t.Context(), r.table, app); err != nil {
		t.Error(err)
	}
	r.keeper.mu.Lock()
	if n := len(r.keeper.files["table"]) + len(r.keeper.files["table-2"]); n != 1 {
		t.Errorf("the store holds %d tables", n)
	}
	r.keeper.mu.Unlock()
	r.control.Close()
	stop()
}

// TestRestartsUnderLoad replaces the edge again and again; every request is answered.
func TestRestartsUnderLoad(t *testing.T) {
	r := newRig(t, nil)
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { b, _ := io.ReadAll(q.Body); fmt.Fprintf(w, "%s", b) })
	r.serve("a.example.org", addr)
	stop := r.stop
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	progress := make(chan struct{}, 1000)
	for range 4 {
		c := r.client(true)
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, body := get(t, c, "https://a.example.org/")
				if resp.StatusCode != 200 {
					t.Errorf("%d %s", resp.StatusCode, body)
				}
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 5 {
		next := r.successor()
		stop()
		stop = next
		for range 50 {
			<-progress
		}
	}
	cancel()
	wg.Wait()
	r.control.Close()
	stop()
}

// TestFarewell has clients send on connections that stand while the edge goes: an edge that closes those that are idle cuts off a
// request that is on its way, and who sent it cannot know whether it had an effect.
func TestFarewell(t *testing.T) {
	r := newRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(w, q.Body) }))
	var wg sync.WaitGroup
	begun := make(chan struct{}, 8)
	for range 8 {
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: "a.example.org"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		wg.Go(func() {
			in := bufio.NewReader(conn)
			for n := 0; ; n++ {
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.example.org\r\nContent-Length: 4\r\n\r\nbody")
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Errorf("request %d has no answer: %v", n, err)
					return
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "body" {
					t.Errorf("%q %v", body, err)
				}
				if n == 0 {
					begun <- struct{}{}
				}
				if resp.Close {
					return
				}
				time.Sleep(5 * time.Millisecond) // idle, as a browser is
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	stop := r.successor()
	r.stop()
	wg.Wait()
	stop()
}

// TestEveryEdgeHasDial has the edge replaced twice in a moment, and then dial, while connections of clients to each of the three stand:
// all of them answer what comes on those, for which each needs dial.
func TestEveryEdgeHasDial(t *testing.T) {
	r := newRig(t, nil)
	l := tcp(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })}
	go s.Serve(l) // each request to it takes a connection of its own
	defer s.Close()
	r.serve("a.example.org", l.Addr().String())
	ask := func(c *http.Client) *http.Response {
		t.Helper()
		resp, body := get(t, c, "https://a.example.org/")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s", resp.Status, body)
		}
		return resp
	}
	var standing, leaving []*http.Client
	var ended sync.WaitGroup
	stop := r.stop
	for range 3 {
		asker := r.client(false)
		ask(asker)
		next := r.successor()
		ended.Go(stop)
		stop = next
		for !ask(asker).Close {
		}
		standing = append(standing, leaving...)
		leaving = nil
		for range 4 {
			c := r.client(false)
			ask(c)
			leaving = append(leaving, c)
		}
	}
	r.dial.restart()
	for _, c := range append(standing, leaving...) {
		ask(c)
	}
	ended.Wait()
	stop()
}

// An edge that is told to end says so before it waits for what it still answers: the supervisor starts the next one then.
func TestLeavingIsSaid(t *testing.T) {
	r := newRig(t, nil)
	r.stop()
	if want := []string{"READY=1", "STOPPING=1"}; !slices.Equal(r.keeper.said, want) {
		t.Errorf("it said %q", r.keeper.said)
	}
}

func TestSpoiltStoreIsLeftOut(t *testing.T) {
	good, err := fdpass.Sealed("table", encodeTable(bulwark.Table{Generation: 7}))
	if err != nil {
		t.Fatal(err)
	}
	older, _ := fdpass.Sealed("table", encodeTable(bulwark.Table{Generation: 6}))
	bad, _ := fdpass.Sealed("table", []byte(`{"generation":9,"routes":{"a.org":"x"}}`))
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	files := map[string][]*os.File{"table": {older, bad, file}, "table-2": {good}, "certs": {bad}}
	got, name, ok := newest(files, "table", decodeTable, func(t bulwark.Table) uint64 { return t.Generation }, logger)
	if !ok || name != "table-2" || got.Generation != 7 {
		t.Errorf("%+v %q %v", got, name, ok)
	}
	if _, _, ok := newest(files, "certs", decodeStoredCerts, func(c storedCerts) uint64 { return c.Serial }, logger); ok {
		t.Error("a spoilt one was taken")
	}
}

// What is stored stays open: a new supervisor takes it back from this process. The older one is let go of.
func TestStoreStaysOpen(t *testing.T) {
	k := &keeper{files: map[string][]*os.File{}}
	s := newStore(k)
	var held []*os.File
	for i := range 3 {
		if err := s.keep("table", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		held = append(held, s.open["table"][0])
	}
	for i, f := range held {
		if _, err := f.Stat(); (err == nil) != (i == 2) {
			t.Errorf("file %d: %v", i, err)
		}
	}
	given := k.take()
	next := newStore(k)
	next.adopt("table", s.last["table"], given)
	if len(given) > 0 || len(next.open["table"]) != 1 {
		t.Error("what was given back was not taken")
	}
	if err := next.keep("table", []byte("new")); err != nil || len(k.files) != 1 {
		t.Error("the store has not exactly the newest:", k.files, err)
	}
}

// blocked is a writer that does not return.
type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) { <-b; return len(p), nil }

func TestSlowLogDropsAndNeverBlocks(t *testing.T) {
	out := make(blocked)
	l := newAccessLog(out)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.run(ctx); close(done) }()
	line := make([]byte, 1000)
	for range 4 * logRoom / len(line) {
		l.add(line)
	}
	if l.dropped.Load() == 0 {
		t.Error("nothing was dropped")
	}
	close(out)
	cancel()
	<-done
}

// What the server says while an edge leaves reaches the successor, although a connection to the one that leaves stands; and no instance is
// said to be drained while the one that leaves may still begin requests to it.
func TestControlReachesTheSuccessor(t *testing.T) {
	r := newRig(t, nil)
	old := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "old") }))
	idle := r.client(false)
	if _, body := get(t, idle, "https://a.example.org/"); body != "old" { // its connection stays, so that the edge waits for it
		t.Fatal(body)
	}
	asker := r.client(false)
	get(t, asker, "https://a.example.org/") // on a connection that leads to the one that leaves
	control := edgecontrol.New(filepath.Join(r.dir, "control"))
	defer control.Close()
	if _, err := control.Table(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := r.successor()
	ended, began := make(chan struct{}), time.Now()
	go func() { r.stop(); close(ended) }()
	for { // its answers end their connections from the moment on in which it leaves; the idle connection it waits for
		if resp, _ := get(t, asker, "https://a.example.org/"); resp.Close {
			break
		}
	}
	gone := r.table.Apps[old].Instances[0]
	next := r.instance(backend(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "new") }))
	r.table.Apps[old] = bulwark.Upstream{Name: "shop", Instances: []bulwark.InstanceID{next}}
	r.table.Generation++
	if err := control.PutTable(t.Context(), r.table); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, r.client(false), "https://a.example.org/"); body != "new" {
		t.Errorf("the successor answers %q", body)
	}
	left, err := control.Drain(t.Context(), gone, time.Minute)
	if err != nil || left != 0 || time.Since(began) < farewellTime {
		t.Errorf("%d requests are left, %v, after %s", left, err, time.Since(began))
	}
	<-ended
	stop()
}

package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// TestSwapsUnderLoadLoseNothing deploys again and again, the way the server does: swap, drain, stop the old instance.
// Every request of the clients is answered, POST included, and each POST arrived once.
func TestSwapsUnderLoadLoseNothing(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		var arrived sync.Map
		type running struct {
			id   bulwark.InstanceID
			stop func()
		}
		deploy := func() running {
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				b, _ := io.ReadAll(q.Body)
				if q.Method == "POST" {
					if _, twice := arrived.LoadOrStore(string(b), true); twice {
						t.Errorf("%s arrived twice", b)
					}
				}
				fmt.Fprintf(w, "%s", b)
			})}
			l := tcp(t)
			go s.Serve(l)
			return running{r.instance(l.Addr().String()), func() { s.Close() }} // hard: whoever is still there is lost
		}
		now := deploy()
		app := bulwark.NewAppID()
		set := func(i running) {
			r.table.Routes["a.example.org"] = app
			r.table.Apps[app] = bulwark.Upstream{Name: "shop", Instances: []bulwark.InstanceID{i.id}}
			r.put()
		}
		set(now)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var sent atomic.Int64
		for range 8 {
			c := r.client(h2)
			wg.Go(func() {
				for ctx.Err() == nil {
					n := sent.Add(1)
					want := fmt.Sprint(n)
					resp, err := c.Post("https://a.example.org/", "x/y", strings.NewReader(want))
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(b) != want {
						t.Errorf("%d %q %v", resp.StatusCode, b, err)
						return
					}
				}
			})
		}
		for range 30 {
			before := sent.Load()
			next := deploy()
			set(next)
			left, err := r.control.Drain(ctx, now.id, 5*time.Second)
			if err != nil || left != 0 {
				t.Errorf("drain: %d %v", left, err)
			}
			now.stop()
			now = next
			for sent.Load() < before+20 && !t.Failed() { // some load between two swaps
				_, _ = r.control.Stats(ctx)
			}
		}
		cancel()
		wg.Wait()
		now.stop()
		t.Logf("%d requests over 30 swaps", sent.Load())
	})
}

// TestPostIsNeverSentTwice has instances die at the worst moments; each body arrives at most once in all.
func TestPostIsNeverSentTwice(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		var got atomic.Int64
		// It answers the first request of a connection and dies of the second, having read it whole: to the edge that
		// looks just like an idle connection that was closed.
		moody := func(c net.Conn, br *bufio.Reader) {
			for n := 0; ; n++ {
				q, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				b, _ := io.ReadAll(q.Body)
				if len(b) > 0 {
					got.Add(1)
				}
				if n == 1 {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
		r := newRig(t, nil)
		r.serve("a.example.org", script(t, moody), script(t, moody))
		c := r.client(h2)
		for _, size := range []int{1, 100, smallBody + 1, 1 << 20} {
			for _, known := range []bool{true, false} {
				for range 4 {
					get(t, c, "https://a.example.org/") // warms a connection, and is repeated if it died
					got.Store(0)
					var body io.Reader = strings.NewReader(strings.Repeat("x", size))
					if !known {
						body = io.MultiReader(body)
					}
					resp, err := c.Post("https://a.example.org/", "x/y", body)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if n := got.Load(); n > 1 || resp.StatusCode == 200 && n != 1 {
						t.Fatalf("size %d: arrived %d times, status %d", size, n, resp.StatusCode)
					}
				}
			}
		}
		for range 20 {
			if resp, _ := get(t, c, "https://a.example.org/"); resp.StatusCode != 200 {
				t.Errorf("a GET on a connection that had died: %d", resp.StatusCode)
			}
		}
	})
}

func TestRefusedConnectionGoesToTheNext(t *testing.T) {
	r := newRig(t, nil)
	good := backend(t, func(w http.ResponseWriter, q *http.Request) { io.Copy(w, q.Body) })
	r.serve("a.example.org", "127.0.0.1:1", good, "")
	for range 20 {
		resp, err := r.client(true).Post("https://a.example.org/", "x/y", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || string(b) != "body" {
			t.Errorf("%d %q", resp.StatusCode, b)
		}
	}
}

func TestQueueAndItsEnd(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { <-hold; io.WriteString(w, "ok") })
	app := r.serve("a.example.org", addr)
	up := r.table.Apps[app]
	up.Queue = 5
	r.table.Apps[app] = up
	r.put()
	c := r.client(true)
	var ok, busy atomic.Int64
	var wg sync.WaitGroup
	for range maxInFlight + 5 {
		wg.Go(func() {
			for range 3 { // on a busy machine some connection takes longer than the edge waits
				resp, err := c.Get("https://a.example.org/")
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode == 200 {
					ok.Add(1)
					return
				}
			}
		})
	}
	for began := time.Now(); ; {
		st, err := r.control.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > 20*time.Second { // sooner than the edge gives up on the first
			close(hold)
			t.Fatalf("the queue does not fill: %+v", st)
		}
		if st.Apps[app].Waiting == 5 && st.Instances[up.Instances[0]].InFlight == maxInFlight {
			break
		}
	}
	for range 3 {
		resp, _ := get(t, c, "https://a.example.org/")
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "1" {
			busy.Add(1)
		}
	}
	close(hold)
	wg.Wait()
	if ok.Load() != maxInFlight+5 || busy.Load() != 3 {
		t.Errorf("%d were served, %d refused", ok.Load(), busy.Load())
	}
}

func TestDrainWaitsForTheLast(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, nil)
	begun, hold := make(chan struct{}), make(chan struct{})
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { begun <- struct{}{}; <-hold; io.WriteString(w, "late") })
	app := r.serve("a.example.org", addr)
	old := r.table.Apps[app].Instances[0]
	got := make(chan string, 1)
	go func() { _, body := get(t, r.client(true), "https://a.example.org/"); got <- body }()
	<-begun
	r.table.Apps[app] = bulwark.Upstream{Name: "shop", Instances: []bulwark.InstanceID{r.instance("")}}
	r.put()
	if left, err := r.control.Drain(ctx, old, 20*time.Millisecond); left != 1 || err != nil {
		t.Errorf("%d %v", left, err)
	}
	done := make(chan int, 1)
	go func() { left, _ := r.control.Drain(ctx, old, 10*time.Second); done <- left }()
	close(hold)
	if left := <-done; left != 0 {
		t.Errorf("%d are left", left)
	}
	if body := <-got; body != "late" {
		t.Errorf("the request in flight got %q", body)
	}
	if left, err := r.control.Drain(ctx, bulwark.NewInstanceID(), time.Second); left != 0 || err != nil {
		t.Errorf("an unknown instance: %d %v", left, err)
	}
}

func TestDialerAbsentAndLate(t *testing.T) {
	d := newDialer(nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, why := d.connect(ctx, bulwark.NewInstanceID(), "a.org"); why != dialAway {
		t.Errorf("got %q", why)
	}
}

// A second dial comes and goes, as a connection of whoever owns dial's user. The first one serves on.
func TestASecondDialLeavesTheFirst(t *testing.T) {
	r := newRig(t, nil)
	l := tcp(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })}
	go s.Serve(l)
	defer s.Close()
	r.serve("a.example.org", l.Addr().String())
	get := func() {
		t.Helper()
		resp, err := r.client(false).Get("https://a.example.org/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("the answer is %s", resp.Status)
		}
	}
	get()
	for range 3 {
		c, err := fdpass.Dial(r.dial.path)
		if err != nil {
			t.Fatal(err)
		}
		get()
		c.Close()
		get()
	}
}

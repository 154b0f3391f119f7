package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// load sends requests at a steady rate, whatever becomes of them: GET and POST, over HTTP/1.1 and HTTP/2 connections that
// stay, and over new ones. Nothing is sent twice: a client that repeats a request hides that the first one was lost.
type load struct {
	cancel  context.CancelFunc
	done    chan struct{}
	clients []*http.Client

	mu      sync.Mutex // guards what follows
	ok      int
	refused int // the connection could not be made
	cut     int // it broke before the answer was there
	bad     int // another answer than 200
	slowest time.Duration
	seen    map[string]int // versions and releases that answered
	errs    []string
}

// loadCommand:
//
//	load start NAME APP RATE      begin
//	load check NAME               wait for a hundred more answers, then print the counts so far
//	load stop NAME                end, and print the counts
func loadCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	switch {
	case len(args) == 4 && args[0] == "start":
		rate, err := strconv.Atoi(args[3])
		ts.Check(err)
		l, err := s.on.load(args[2], rate)
		ts.Check(err)
		s.loads[args[1]] = l
		ts.Check(l.more(20))
	case len(args) == 2 && args[0] == "check":
		l := s.loads[args[1]]
		ts.Check(l.more(100))
		fmt.Fprintln(ts.Stdout(), l)
	case len(args) == 2 && args[0] == "stop":
		l := s.loads[args[1]]
		l.end()
		fmt.Fprintln(ts.Stdout(), l)
		ts.Logf("load %s: %s", args[1], l)
	default:
		ts.Fatalf("usage: load start NAME APP RATE | load check NAME | load stop NAME")
	}
}

func (i *installation) load(app string, rate int) (*load, error) {
	l := &load{done: make(chan struct{}), seen: map[string]int{}}
	for _, kind := range []struct{ h2, fresh bool }{{false, false}, {true, false}, {false, true}} {
		t, err := i.transport(kind.h2)
		if err != nil {
			return nil, err
		}
		t.DisableKeepAlives = kind.fresh
		l.clients = append(l.clients, &http.Client{Transport: t, Timeout: 60 * time.Second})
	}
	url := fmt.Sprintf("https://%s.%s:%s/", app, domain, i.ports["HTTPS"])
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(l.done)
		var wg sync.WaitGroup
		defer wg.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wg.Go(func() { l.one(url, n) })
		}
	}()
	return l, nil
}

// one makes the n-th request.
func (l *load) one(url string, n int) {
	method, body := http.MethodGet, ""
	if n%2 == 1 {
		method, body = http.MethodPost, fmt.Sprintf("body %d", n)
	}
	var r io.Reader
	if body != "" {
		r = io.NopCloser(strings.NewReader(body)) // net/http cannot send it a second time
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		panic(err)
	}
	if l.clients[n/2%len(l.clients)].Transport.(*http.Transport).ForceAttemptHTTP2 && body != "" {
		// In HTTP/2 a server that ends says which requests it will not look at; any client sends these again (RFC 9113 §8.7).
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	}
	began := time.Now()
	res, err := l.clients[n/2%len(l.clients)].Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	what := ""
	var op *net.OpError
	switch {
	case err != nil && (errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &op) && op.Op == "dial"):
		l.refused++
		what = "refused: " + err.Error()
	case err != nil:
		l.cut++
		what = "cut: " + err.Error()
	case res.StatusCode != http.StatusOK || method == http.MethodPost && string(text) != body:
		l.bad++
		what = fmt.Sprintf("bad: %s %.100q", res.Status, text)
	default:
		l.ok++
		l.slowest = max(l.slowest, took)
		for _, w := range strings.Fields(string(text)) {
			if strings.HasPrefix(w, "version=") || strings.HasPrefix(w, "release=") {
				l.seen[w]++
			}
		}
		return
	}
	if len(l.errs) < 12 {
		l.errs = append(l.errs, fmt.Sprintf("%s %s #%d after %s: %s", began.UTC().Format("15:04:05.000"), method, n, took.Round(time.Millisecond), what))
	}
}

// more waits for n more good answers.
func (l *load) more(n int) error {
	l.mu.Lock()
	goal := l.ok + n
	l.mu.Unlock()
	return poll(30*time.Second, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ok < goal {
			return fmt.Errorf("no %d good answers within 30 s", n)
		}
		return nil
	})
}

func (l *load) end() {
	l.cancel()
	<-l.done
	for _, c := range l.clients {
		c.CloseIdleConnections()
	}
}

// String is the counts in one line, and the first failures below.
func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var seen []string
	for v := range l.seen {
		seen = append(seen, v)
	}
	slices.Sort(seen)
	return fmt.Sprintf("requests=%d failed=%d (refused=%d cut=%d bad=%d) slowest=%dms %s\n%s", l.ok+l.refused+l.cut+l.bad, l.refused+l.cut+l.bad,
		l.refused, l.cut, l.bad, l.slowest.Milliseconds(), strings.Join(seen, " "), strings.Join(l.errs, "\n"))
}

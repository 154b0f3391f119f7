//go:build bench

package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// drained is how long what an instance does may go on once another one has its place; see drainTime of package instance.
const drained = 30 * time.Second

// benchSwaps changes an app's instance fifty times under load, with WebSockets open on each of them.
func benchSwaps(b *bench) error {
	const app, swaps, pause = "bench-swaps", 50, time.Second
	p, err := b.person()
	if err != nil {
		return err
	}
	if err := p.image(app, "1", "2"); err != nil {
		return err
	}
	l, err := newSteady(b.on, app, rate)
	if err != nil {
		return err
	}
	s := &sockets{on: b.on, app: app, stop: make(chan struct{})}
	var took []float64
	for range 10 {
		s.open()
	}
	for n := range swaps {
		s.open()
		time.Sleep(pause / 2)
		began := time.Now()
		s.begins(began)
		if _, err := p.run("", "bulwark", "rollback", fmt.Sprintf("v%d", 1+n%2), "--app", app); err != nil {
			return fmt.Errorf("%w\n%s", err, l)
		}
		s.ends(time.Now())
		took = append(took, ms(time.Since(began)))
		time.Sleep(pause / 2)
	}
	l.end()
	close(s.stop)
	s.wg.Wait()
	requests, failed := l.counts()
	how := fmt.Sprintf("`bulwark rollback` %d times, a second apart, under %d requests a second: GET and POST, HTTP/1.1 and HTTP/2, none sent twice; %d requests", swaps, rate, requests)
	b.add(result{Name: fmt.Sprintf("failed requests in %d swaps", swaps), Unit: "requests", Ours: digested(float64(failed)), How: how}, &goal{most: 0})
	b.add(result{Name: fmt.Sprintf("failed WebSockets in %d swaps", swaps), Unit: "sockets", Ours: digested(float64(len(s.wrong))),
		How: fmt.Sprintf("%d opened during the same, one before each swap, each with 5 messages a second that come back: %d messages; %d were still open %d s after their instance was replaced and ended then, as they should, %d of them with a message under way",
			s.opened, s.messages, s.ended, int(drained.Seconds()), s.cut)}, &goal{most: 0})
	b.add(result{Name: "swap, command to its end", Unit: "ms", Ours: digested(took...), How: "the same"}, nil)
	if failed > 0 || len(s.wrong) > 0 {
		fmt.Fprintln(os.Stderr, l, "\n"+strings.Join(s.wrong, "\n")+"\n"+b.on.refusals(app))
		b.t.Errorf("%d requests and %d WebSockets failed during swaps", failed, len(s.wrong))
	}
	return p.gone(app)
}

// sockets are WebSockets of an app. One that ends in its time is opened again, as a browser's program does.
type sockets struct {
	on   *installation
	app  string
	stop chan struct{}
	wg   sync.WaitGroup

	mu                           sync.Mutex // guards what follows
	swaps                        []swap
	opened, messages, ended, cut int
	wrong                        []string
}

// swap is when one began, and when it was over; zero: it is not.
type swap struct{ began, over time.Time }

func (s *sockets) begins(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swaps = append(s.swaps, swap{began: at})
}

func (s *sockets) ends(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swaps[len(s.swaps)-1].over = at
}

// due is when a socket that was opened then may be ended by the platform: it may be one of the instance that was replaced by a swap that was not over.
func (s *sockets) due(opened time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.swaps {
		if w.over.IsZero() || w.over.After(opened) {
			return w.began.Add(drained)
		}
	}
	return time.Now().Add(time.Hour)
}

func (s *sockets) open() {
	s.wg.Go(func() {
		for {
			opened := time.Now()
			waited, err := s.one()
			if err == nil {
				return // stopped
			}
			due := s.due(opened)
			s.mu.Lock()
			if time.Now().Before(due) {
				s.wrong = append(s.wrong, fmt.Sprintf("WebSocket, after %.1f s: %v", time.Since(opened).Seconds(), err))
				s.mu.Unlock()
				return
			}
			s.ended++
			if waited {
				s.cut++
			}
			s.mu.Unlock()
		}
	})
}

// one uses a socket until it ends; waited says that a message was under way then.
func (s *sockets) one() (waited bool, err error) {
	pool, err := s.on.authorities()
	if err != nil {
		return false, err
	}
	host := s.app + "." + domain
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", "127.0.0.1:"+s.on.ports["HTTPS"], &tls.Config{ServerName: host, RootCAs: pool})
	if err != nil {
		return false, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host); err != nil {
		return false, err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return false, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return false, fmt.Errorf("it was not opened: %s", res.Status)
	}
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			return false, nil
		case <-time.After(200 * time.Millisecond):
		}
		message := fmt.Sprintf("message %8d", n)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		// An end that came while nothing was under way is seen at the first byte.
		if _, err := io.WriteString(c, message); err != nil {
			return false, err
		}
		back := make([]byte, len(message))
		if got, err := io.ReadFull(r, back); err != nil {
			return got > 0 || !errors.Is(err, io.EOF), err
		}
		if string(back) != message {
			return true, fmt.Errorf("%q came back for %q", back, message)
		}
		s.mu.Lock()
		s.messages++
		s.mu.Unlock()
	}
}

package posture

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func edg4() Control {
	return Control{ID: "EDG-4", Version: 1, Every: daily,
		Promise: "Floods are absorbed: an app that is flooded answers 429 and comes back, and slow clients, endless headers and half-open connections hold nothing.",
		Tries: "Floods an app of its own that has a limit, and asks another name meanwhile; sends a request's head a byte at a time, a head without an end, and more fields than are served; " +
			"looks whether the kernel answers half-open connections without keeping them.",
		Probe: probeEDG4}
}

func probeEDG4(ctx context.Context, w *World, r *Record) error {
	app, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	if err := w.flood(ctx, r, v, app); err != nil {
		return err
	}
	head := "GET / HTTP/1.1\r\nHost: " + v.host + "\r\n"
	took, said, err := v.drip(ctx, head+"X-Slow: ", 30*time.Second)
	if err != nil {
		return err
	}
	r.Refused("hold a connection by a head that comes a byte at a time", took < 25*time.Second, fmt.Sprintf("%s, %q", took.Round(time.Second), said))
	endless := strings.Repeat("X-More: "+strings.Repeat("x", 1000)+"\r\n", 200)
	status, err := v.raw(ctx, head+endless+"\r\n")
	if err != nil {
		return err
	}
	r.Refused("have a head without an end taken", status == http.StatusRequestHeaderFieldsTooLarge || status == 0, fmt.Sprint(status))
	status, err = v.raw(ctx, head+strings.Repeat("X-Many: 1\r\n", 150)+"\r\n")
	if err != nil {
		return err
	}
	r.Refused("have more fields in a head than are served", status == http.StatusRequestHeaderFieldsTooLarge, fmt.Sprint(status))
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies")
	if err != nil {
		return err
	}
	r.Refused("fill the kernel's table of half-open connections", strings.TrimSpace(string(b)) != "0", "tcp_syncookies is "+strings.TrimSpace(string(b)))
	return nil
}

// flood asks an app that has a limit more often than that, and another name meanwhile.
func (w *World) flood(ctx context.Context, r *Record, v *visitor, app string) (err error) {
	const path = "/bulwark-posture-flood"
	if _, err := w.Person.Do(ctx, "shield", app, "limit", "20r/m", "--path", path); err != nil {
		return err
	}
	defer func() {
		_, uerr := w.Person.Do(context.WithoutCancel(ctx), "shield", app, "limit", "off", "--path", path)
		err = errors.Join(err, uerr)
	}()
	passed, refused, retry := 0, 0, ""
	for range 60 {
		a, err := v.ask(ctx, http.MethodGet, path, "")
		if err != nil {
			return err
		}
		if a.status == http.StatusTooManyRequests {
			refused++
			retry = a.header.Get("Retry-After")
		} else {
			passed++
		}
	}
	r.Proven("what is within the limit passes", passed >= 20, fmt.Sprint(passed))
	r.Refused("send an app more than its limit lets through", passed <= 25 && refused >= 35, fmt.Sprintf("%d passed, %d were refused", passed, refused))
	r.Refused("be refused without a word on when to come again", retry != "", "Retry-After "+retry)
	a, err := v.ask(ctx, http.MethodGet, "/", "")
	if err != nil {
		return err
	}
	r.Refused("have the rest of the app, or another client's requests, refused with it", a.status == http.StatusOK, fmt.Sprint(a.status))
	return nil
}

// dial opens a connection to the edge for HTTP/1.1.
func (v *visitor) dial(ctx context.Context) (net.Conn, error) {
	conf := v.tls.Clone()
	conf.NextProtos = []string{"http/1.1"}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: conf}
	return d.DialContext(ctx, "tcp", v.at)
}

// drip sends a text and then a byte each half second, until the edge ends the connection or time is over.
func (v *visitor) drip(ctx context.Context, text string, most time.Duration) (took time.Duration, said string, err error) {
	c, err := v.dial(ctx)
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	began := time.Now()
	ended := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(c, 200))
		ended <- string(b)
	}()
	if _, err := c.Write([]byte(text)); err != nil {
		return time.Since(began), err.Error(), nil //nolint:nilerr // it is what was to be seen
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, "", ctx.Err()
		case said := <-ended:
			return time.Since(began), said, nil
		case <-tick.C:
		}
		if _, err := c.Write([]byte("x")); err != nil || time.Since(began) > most {
			return time.Since(began), "", nil //nolint:nilerr // it is what was to be seen
		}
	}
}

// raw sends a request as it is written, and returns the answer's status; 0 if the connection was ended without one.
func (v *visitor) raw(ctx context.Context, text string) (int, error) {
	c, err := v.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	_, _ = c.Write([]byte(text)) // what is refused may be refused before its end
	b, _ := io.ReadAll(io.LimitReader(c, 64))
	var status int
	if _, err := fmt.Sscanf(string(b), "HTTP/1.1 %d", &status); err != nil {
		return 0, nil //nolint:nilerr // no answer
	}
	return status, nil
}

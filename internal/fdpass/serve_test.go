package fdpass

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// One user is answered, so many times at once, until the end; and the end is everybody's.
func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	start := func(user uint32) (end func()) {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := Server{Listener: l, User: user, Most: 2, Log: slog.New(slog.DiscardHandler), Serve: func(c *Conn) {
			var m message
			for {
				if _, err := c.Receive(&m); err != nil || c.Send(m) != nil {
					return
				}
			}
		}}
		go func() { done <- s.Run(ctx) }()
		return func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("it does not end")
			}
		}
	}
	ask := func() (*Conn, error) {
		c, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, answered(c)
	}

	end := start(uint32(os.Getuid()) + 1)
	if _, err := ask(); err == nil {
		t.Error("a stranger is answered")
	}
	end()

	end = start(uint32(os.Getuid()))
	first, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	second, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); err == nil {
		t.Error("a third one is answered")
	}
	first.Close()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err = ask(); err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil {
		t.Error("nobody is answered in the place of who left:", err)
	}
	end()
	if err := answered(second); err == nil {
		t.Error("it answers after its end")
	}
}

// answered tells whether what was said comes back.
func answered(c *Conn) error {
	if err := c.Send(message{"hello"}); err != nil {
		return err
	}
	var m message
	if _, err := c.Receive(&m); err != nil {
		return err
	}
	if m.Text != "hello" {
		return errors.Join(io.ErrUnexpectedEOF, errors.New(m.Text))
	}
	return nil
}

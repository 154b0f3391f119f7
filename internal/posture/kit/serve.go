package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxEcho bounds what is said back.
const maxEcho = 1024

// serve is an app for the probes: it answers GET / with a constant and GET /echo?x=... with x.
func serve(o *options, stderr io.Writer) error {
	port := "8080"
	for _, kv := range o.env {
		if v, ok := strings.CutPrefix(kv, "PORT="); ok {
			port = v
		}
	}
	if _, err := within(port, 1, 1<<16-1); err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /loose", func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range map[string]string{"Strict-Transport-Security": "max-age=0", "X-Content-Type-Options": "no", "X-Frame-Options": "ALLOWALL", "Referrer-Policy": "unsafe-url",
			"Permissions-Policy": "camera=*, microphone=*", "Content-Security-Policy": "frame-ancestors *", "Server": "bulwark-kit", "X-Powered-By": "bulwark-kit"} {
			w.Header().Set(k, v)
		}
		_, _ = io.WriteString(w, "loose\n")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "bulwark-kit\n") })
	mux.HandleFunc("GET /echo", func(w http.ResponseWriter, r *http.Request) {
		x := r.URL.Query().Get("x")
		// Never as a page: what is sent back is the asker's.
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, x[:min(len(x), maxEcho)]) //nolint:gosec // as plain text, see above
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	// All addresses of the instance: the edge comes in by one that the kit does not know.
	l, err := net.Listen("tcp4", "0.0.0.0:"+port)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- srv.Shutdown(grace)
	}()
	fmt.Fprintf(stderr, "listening on port %s\n", port)
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

// hold is a listener for positive controls: it says where it listens, answers each connection, and each datagram, with one
// byte, and ends after its time or when it is told to.
func hold(o *options, stdout io.Writer) error {
	if o.seconds == 0 {
		return fmt.Errorf("%w: hold needs --seconds", errUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second)
	defer cancel()
	l, u, err := listenBoth()
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close(); u.Close() })
	port := l.Addr().(*net.TCPAddr).Port
	if err := (&Report{Facts: map[string]string{"port": strconv.Itoa(port), "addresses": addressesHere()}}).write(stdout); err != nil {
		return err
	}
	go func() {
		b := make([]byte, 512)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte{'!'}, from)
		}
	}()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte{'!'})
		c.Close()
	}
}

// listenBoth listens on a port that is free for TCP and UDP.
func listenBoth() (net.Listener, net.PacketConn, error) {
	var last error
	for range 16 {
		l, err := net.Listen("tcp", ":0") //nolint:gosec // every address is to be tried
		if err != nil {
			return nil, nil, err
		}
		u, err := net.ListenPacket("udp", ":"+strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		if err == nil {
			return l, u, nil
		}
		l.Close()
		last = err
	}
	return nil, nil, last
}

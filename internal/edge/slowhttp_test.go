package edge

import (
	"context"
	"crypto/tls"
	"encoding/csv"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// slowFor is how long each attack goes on, in seconds.
const slowFor = 9

// Another one's tool holds connections by heads, bodies and answers that go as slowly as they may, and by ranges. It finds the app there all the time, though what it asks
// shares its attack's address; others do not notice.
func TestSlowHTTP(t *testing.T) {
	program, err := exec.LookPath("slowhttptest")
	if err != nil {
		t.Fatalf("there is no slowhttptest: `make test-deps` installs it: %v", err)
	}
	for name, args := range map[string][]string{
		"heads": {"-H", "-i", "1", "-x", "24"}, "bodies": {"-B", "-i", "1", "-s", "8192", "-x", "10"},
		"ranges": {"-R", "-a", "5", "-b", "3000"}, "answers": {"-X", "-w", "1", "-y", "8", "-n", "5", "-z", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			r := newRig(t, nil)
			ca := newAuthority(t)
			if err := r.issued.PutCertificates(t.Context(), []bulwark.Certificate{ca.issue(t, "", "localhost")}); err != nil {
				t.Fatal(err)
			}
			r.serve("localhost", backend(t, func(w http.ResponseWriter, q *http.Request) {
				io.Copy(io.Discard, q.Body)
				w.Write(make([]byte, 256<<10))
			}))
			slowest := make(chan time.Duration, 1)
			over := make(chan struct{})
			go func() { slowest <- asksFrom(t, r, "127.0.0.9", over) }()
			most := slowly(t, program, append(args, "-u", "http://localhost:"+throughTLS(t, r, "localhost")+"/"))
			close(over)
			took := <-slowest
			t.Logf("%d connections at most; somebody else's slowest answer took %v", most, took)
			if most < 100 && name != "ranges" { // those are answered at once
				t.Error("that is no attack")
			}
			if took > victimTime {
				t.Error("somebody else waits", took)
			}
		})
	}
}

// slowly attacks, and returns how many connections there were at most.
func slowly(t *testing.T, program string, args []string) (most int) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append(args, "-c", "200", "-r", "100", "-l", strconv.Itoa(slowFor), "-p", "8", "-g", "-o", report)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(report + ".csv")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 3 {
		t.Fatalf("%d rows, %v\n%s", len(rows), err, out)
	}
	connected, available := slices.Index(rows[0], "Connected"), slices.Index(rows[0], "Service Available")
	if connected < 0 || available < 0 {
		t.Fatal("another report than is known:", rows[0])
	}
	for _, row := range rows[1:] {
		n, err := strconv.Atoi(row[connected])
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
		if row[available] == "0" {
			t.Errorf("after %s s the tool finds the app away", row[0])
		}
	}
	return most
}

// asksFrom asks the app from an address, by a connection for each request, until over is closed, and returns how long the slowest answer took.
func asksFrom(t *testing.T, r *rig, address string, over chan struct{}) (slowest time.Duration) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, r.addr)
		}}}
	for {
		select {
		case <-over:
			return slowest
		case <-time.After(100 * time.Millisecond):
		}
		began := time.Now()
		resp, err := c.Get("https://localhost/")
		if err != nil {
			t.Error(err)
			return slowest
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Error(resp.Status, err)
		}
		slowest = max(slowest, time.Since(began))
	}
}

// throughTLS listens without TLS and goes on with it: the tool names no host in its handshakes, and nobody is served who does not. It keeps next to nothing,
// so that what is slow on one side is slow on the other.
func throughTLS(t *testing.T, r *rig, host string) (port string) {
	l := tcp(t)
	relay := func(c *net.TCPConn) {
		defer c.Close()
		up, err := net.Dial("tcp", r.addr)
		if err != nil {
			return
		}
		defer up.Close()
		for _, s := range []*net.TCPConn{c, up.(*net.TCPConn)} {
			_ = s.SetReadBuffer(2048)
			_ = s.SetWriteBuffer(2048)
		}
		on := tls.Client(up, &tls.Config{RootCAs: r.pool, ServerName: host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true})
		go func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{on}, struct{ io.Reader }{c}, make([]byte, 512))
			_ = on.CloseWrite()
		}()
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{on}, make([]byte, 512))
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go relay(c.(*net.TCPConn))
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

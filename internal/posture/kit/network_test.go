package kit

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started runs a subcommand that listens, and waits for its first line.
func started(t *testing.T, from func(*exec.Cmd) (io.ReadCloser, error), env []string, args ...string) (string, *exec.Cmd) {
	t.Helper()
	c := as("kit", args...)
	c.Env = append(c.Env, env...)
	c.Stderr = nil
	out, err := from(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	var line []byte
	for b := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; line = append(line, b[0]) {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("%v after %q", err, line)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return string(line), c
}

// A listener of hold is reached by network, for TCP and UDP; a port without one is not.
func TestNetwork(t *testing.T) {
	line, c := started(t, (*exec.Cmd).StdoutPipe, nil, "hold", "--seconds", "60")
	r, err := Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	port := r.Facts["port"]
	run := func() *Report {
		var out, errs bytes.Buffer
		if code := Run([]string{"network", "--try", "open=tcp:127.0.0.1:" + port, "--udp", "answers=127.0.0.1:" + port, "--try", "closed=tcp:127.0.0.1:1",
			"--udp", "silent=127.0.0.1:1", "--spoof", "198.51.100.7", "--timeout", "500ms"}, nil, &out, &errs); code != 0 {
			t.Fatalf("%d: %s", code, errs.String())
		}
		r, err := Parse(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	raw := hasCapability(13) // CAP_NET_RAW
	check := func(want map[string]bool) {
		t.Helper()
		for _, a := range run().Attempts {
			if w, ok := want[a.Name]; !ok || a.Reached != w || a.Untried {
				t.Errorf("%+v", a)
			}
		}
	}
	want := map[string]bool{"open": true, "answers": true, "closed": false, "silent": false, "send ICMP by a raw socket": raw,
		"spoof 198.51.100.7 to answers": raw, "spoof 198.51.100.7 to silent": raw, "bind to 198.51.100.7": raw}
	check(want)
	// SIGTERM ends it, and then nobody is there.
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	want["open"], want["answers"] = false, false
	check(want)
}

func TestServe(t *testing.T) {
	l, u, err := listenBoth() // a port that was free
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().String()[strings.LastIndexByte(l.Addr().String(), ':')+1:]
	l.Close()
	u.Close()
	_, c := started(t, (*exec.Cmd).StderrPipe, []string{"PORT=" + port}, "serve")
	for path, want := range map[string]string{"/": "200 bulwark-kit\n", "/echo?x=a%3Cb%3E": "200 a<b>", "/echo?x=" + strings.Repeat("y", maxEcho+1): "200 " + strings.Repeat("y", maxEcho),
		"/other": "404 404 page not found\n"} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:"+port+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if got := res.Status[:4] + string(b); got != want {
			t.Errorf("%s: %q", path, got)
		}
		if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain") {
			t.Errorf("%s is %s", path, ct)
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestResolve(t *testing.T) {
	r := resolve(&options{names: []string{"localhost", "nobody.invalid"}, timeout: time.Second})
	if !r.Attempts[0].Reached || !strings.Contains(r.Attempts[0].Detail, "127.0.0.1") {
		t.Errorf("%+v", r.Attempts[0])
	}
	if r.Attempts[1].Reached {
		t.Errorf("%+v", r.Attempts[1])
	}
}

func TestDatagram(t *testing.T) {
	b := datagram([4]byte{192, 0, 2, 1}, [4]byte{192, 0, 2, 2}, 5353)
	if len(b) != 39 || b[0] != 0x45 || int(b[2])<<8|int(b[3]) != len(b) || b[9] != 17 || int(b[22])<<8|int(b[23]) != 5353 || int(b[24])<<8|int(b[25]) != len(b)-20 {
		t.Errorf("% x", b)
	}
}

func TestUsage(t *testing.T) {
	for _, line := range []string{"", "fly", "isolation x", "isolation --neighbour 0", "isolation --neighbour", "isolation --marker eA==", "network --try x", "network --try a=tcp:host:80",
		"network --try a=sctp:127.0.0.1:80", "network --udp a=127.0.0.1:0", "network --spoof ::1", "network --timeout 1h", "resolve", "build --marker eA==",
		"build --marker ???", "exhaust --what everything --seconds 1", "exhaust --what memory", "hold", "hold --seconds 0", "hold --seconds 1 --what cpu", "attempt", "attempt nothing"} {
		var out, errs bytes.Buffer
		if code := Run(strings.Fields(line), nil, &out, &errs); code != exitUsage || out.Len() > 0 || errs.Len() == 0 {
			t.Errorf("%q: %d %q %q", line, code, out.String(), errs.String())
		}
	}
}

func TestParse(t *testing.T) {
	good := `{"version":1,"attempts":[{"name":"mount tmpfs","reached":false,"detail":"operation not permitted"},{"name":"x","shape":"CVE-2019-5736","reached":true,"untried":false,"detail":"d"}],` +
		`"syscalls":{"reachable":1,"names":["read"],"how":"h"},"families":["INET"],"writable":["/proc/x"],"facts":{"uid":"0"}}`
	if r, err := Parse([]byte(good + "\n")); err != nil || len(r.Attempts) != 2 || r.Attempts[1].Shape != "CVE-2019-5736" || r.Syscalls.Reachable != 1 {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "{}", "[]", `{"version":2}`, `{"version":1}{"version":1}`, `{"version":1} x`, `{"version":1,"more":1}`,
		`{"version":1,"attempts":[{"name":"x","reached":"yes"}]}`, `{"version":1,"attempts":[{"nom":"x"}]}`, `{"version":1,"facts":{"a":"` + strings.Repeat("b", maxReport) + `"}}`} {
		if r, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.80s was taken: %+v", bad, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"attempts":[{"name":"a","reached":true,"detail":"d"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := r.write(&out); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(out.Bytes()); err != nil && out.Len() <= maxReport {
			t.Errorf("what was read is written as %s: %v", out.String(), err)
		}
	})
}

func FuzzOptions(f *testing.F) {
	for _, line := range []string{"--try a=tcp:127.0.0.1:80", "--udp b=[::1]:53", "--spoof 10.0.0.1 --timeout 1s", "--marker " + base64.StdEncoding.EncodeToString([]byte("12345678")),
		"--seconds 3 --what cpu", "name name", "--try", "--try =tcp:1", "--try a=tcp:[fe80::1%25eth0]:1", "--neighbour 77"} {
		f.Add(line)
	}
	all := []string{"neighbour", "try", "udp", "spoof", "timeout", "marker", "what", "seconds", "dir", "root"}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseOptions(strings.Fields(line), all)
		if err != nil {
			return
		}
		for _, x := range o.tries {
			if a, err := netip.ParseAddrPort(x.address); err != nil || a.Port() == 0 || x.name == "" || x.network != "tcp" && x.network != "udp" {
				t.Errorf("%q: %+v", line, x)
			}
		}
		for _, m := range o.markers {
			if len(m) < 8 || len(m) > 4096 {
				t.Errorf("%q: a marker of %d", line, len(m))
			}
		}
		if o.spoof != "" && !netip.MustParseAddr(o.spoof).Is4() || o.timeout <= 0 || o.timeout > time.Minute || o.seconds < 0 || o.seconds > 3600 || o.neighbour < 0 {
			t.Errorf("%q: %+v", line, o)
		}
	})
}

// What is exhausted is bounded by the test: a user namespace of its own, few processes, files and little room.
func TestExhaust(t *testing.T) {
	for what, refusal := range map[string]string{"files": "too many open files", "disk": "no space left", "cpu": "the time was over", "memory": "cannot allocate memory",
		"pids": "resource temporarily unavailable"} {
		r, _ := report(t, onStage(t, "exhaust", what))
		t.Log(what, r.Facts)
		if r.Facts["what"] != what || r.Facts["amount"] == "0" {
			t.Errorf("%+v", r)
		}
		if !strings.Contains(r.Facts["ended"], refusal) {
			t.Errorf("%+v", r.Facts)
		}
	}
	var out, errs bytes.Buffer
	if atHost("user") && (Run([]string{"exhaust", "--what", "cpu", "--seconds", "1"}, os.Environ(), &out, &errs) != exitFailed || out.Len() > 0) {
		t.Errorf("on the host: %s %s", out.String(), errs.String())
	}
}

package hook

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// serve answers one hook with answer and returns what it asked.
func serve(t *testing.T, answer []byte) (socket string, asked <-chan Request) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ch := make(chan Request, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		req, err := ReadRequest(conn)
		if err != nil {
			req.Token = err.Error()
		}
		ch <- req
		conn.Write(answer)
	}()
	return socket, ch
}

func run(socket string, env map[string]string, stdin string) (int, string) {
	var out bytes.Buffer
	code := Run(func(k string) string {
		if k == EnvSocket {
			return socket
		}
		return env[k]
	}, strings.NewReader(stdin), &out)
	return code, out.String()
}

func TestRun(t *testing.T) {
	long := strings.Repeat("x", maxFrame+10) + "\n"
	socket, asked := serve(t, append(Text([]byte("a\n"+long)), Exit(0)...))
	code, out := run(socket, map[string]string{EnvToken: "tok", "GIT_PUSH_CERT": "abc", "HOME": "/", "GIT_PUSH_CERT_NONCE": "x\ny"}, "0 1 refs/heads/main\n")
	if code != 0 || out != "a\n"+long {
		t.Errorf("%d, %d bytes", code, len(out))
	}
	want := Request{Token: "tok", Env: map[string]string{"GIT_PUSH_CERT": "abc"}, Lines: []string{"0 1 refs/heads/main"}}
	if got := <-asked; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

// Every answer but a whole one refuses the push.
func TestBadAnswers(t *testing.T) {
	for _, answer := range [][]byte{nil, {kindExit}, Text([]byte("x")), {kindText, 0xff, 0, 0, 0}, {'?', 0, 0, 0, 0},
		{kindExit, 0, 0, 0, 0}, {kindExit, 0, 0, 0, 2, 0, 0}, {kindText, 0, 0, 0, 5, 'x'}} {
		socket, _ := serve(t, answer)
		if code, out := run(socket, map[string]string{EnvToken: "t"}, "x\n"); code != 1 || !strings.Contains(out, "not accepted") {
			t.Errorf("%q: %d %q", answer, code, out)
		}
	}
	socket, _ := serve(t, Exit(3))
	if code, _ := run(socket, map[string]string{EnvToken: "t"}, ""); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

// A push of a million refs is cut at a line's end and still is one of many refs.
func TestManyRefs(t *testing.T) {
	socket, asked := serve(t, Exit(1))
	line := strings.Repeat("0", 40) + " " + strings.Repeat("1", 40) + " refs/heads/b\n"
	if code, _ := run(socket, map[string]string{EnvToken: "t"}, strings.Repeat(line, 1_000_000)); code != 1 {
		t.Errorf("exit code %d", code)
	}
	req := <-asked
	if len(req.Lines) < 1000 {
		t.Fatalf("%d lines, %s", len(req.Lines), req.Token)
	}
	for _, l := range req.Lines {
		if l+"\n" != line {
			t.Fatalf("line %q", l)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("bulwark-hook/1\ntok\nA=b\n\n0 1 r\n"))
	f.Add([]byte("bulwark-hook/1\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := ReadRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if req.Token == "" || strings.Contains(strings.Join(req.Lines, ""), "\n") {
			t.Fatalf("%q: %+v", b, req)
		}
	})
}

func FuzzRelay(f *testing.F) {
	f.Add(append(Text([]byte("a")), Exit(0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		code, err := relay(bytes.NewReader(b), io.Discard)
		if err != nil && code == 0 {
			t.Fatalf("%q is accepted in spite of %v", b, err)
		}
	})
}

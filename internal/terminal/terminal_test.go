package terminal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// node is a node's key.
type node struct {
	private ed25519.PrivateKey
	public  statement.Key
}

func newNode(t *testing.T) node {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return node{private, statement.NewKey(pub)}
}

// welcome is one to a statement.
func welcome(n node, digest bulwark.Digest) Welcome {
	return Welcome{Node: n.public.Fingerprint, Statement: digest, App: bulwark.NewAppID(), Instance: bulwark.NewInstanceID(), Release: 3, Name: "run.1"}
}

// pair returns the two ends of a stream over a connection.
func pair(t *testing.T, a, b io.ReadWriteCloser) (client, host *Stream) {
	t.Helper()
	n, digest := newNode(t), bulwark.Sum([]byte("statement"))
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	envelope, stream, err := Accept(welcome(n, digest), k.Public(), n.private)
	if err != nil {
		t.Fatal(err)
	}
	client, w, err := k.Open(a, envelope, n.public, digest)
	if err != nil || w.Name != "run.1" {
		t.Fatal(w, err)
	}
	if host, err = stream(b); err != nil {
		t.Fatal(err)
	}
	return client, host
}

// command is a process that a test plays.
type command struct {
	Streams
	start   Start
	windows chan Window
	signals chan syscall.Signal
	exit    chan int
	end     func(*command)
}

func (c *command) Resize(w Window)         { c.windows <- w }
func (c *command) Signal(s syscall.Signal) { c.signals <- s }
func (c *command) End()                    { c.end(c) }
func (c *command) Wait() (int, error)      { return <-c.exit, nil }

// finish ends the command as a driver does: the outputs first.
func (c *command) finish(code int) {
	c.Stdout.Close()
	c.Stderr.Close()
	c.exit <- code
}

// hosted runs the node's end; run is the command.
func hosted(ctx context.Context, s *Stream, run func(*command)) (*command, <-chan error) {
	c := &command{windows: make(chan Window, 8), signals: make(chan syscall.Signal, 8), exit: make(chan int, 8), end: func(c *command) { c.finish(129) }}
	done := make(chan error, 1)
	go func() {
		done <- s.Host(ctx, func(start Start, streams Streams) (Process, error) {
			c.start, c.Streams = start, streams
			go run(c)
			return c, nil
		})
	}()
	return c, done
}

func TestSession(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	windows, signals := make(chan Window), make(chan syscall.Signal)
	c, done := hosted(t.Context(), host, func(c *command) {
		in, err := io.ReadAll(c.Stdin)
		if err != nil || len(in) != 1<<20 {
			t.Error(len(in), err)
		}
		c.Stdout.Write(bytes.ToUpper(in))
		c.Stderr.Write([]byte("warning"))
		windows <- Window{100, 50}
		if w := <-c.windows; w != (Window{100, 50}) {
			t.Error(w)
		}
		signals <- syscall.SIGINT
		if s := <-c.signals; s != syscall.SIGINT {
			t.Error(s)
		}
		c.finish(7)
	})
	var stdout, stderr bytes.Buffer
	code, err := client.Attach(t.Context(), Local{Start: Start{Window{80, 24}, "xterm-256color"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20)),
		Stdout: &stdout, Stderr: &stderr, Windows: windows, Signals: signals})
	if code != 7 || err != nil {
		t.Error(code, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if stdout.String() != strings.Repeat("X", 1<<20) || stderr.String() != "warning" {
		t.Error(stdout.Len(), stderr.String())
	}
	if c.start != (Start{Window{80, 24}, "xterm-256color"}) {
		t.Error(c.start)
	}
}

// A command that takes nothing does not keep the node from hearing that the client is gone.
func TestHangUpBehindStdin(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	ended := make(chan struct{})
	c, done := hosted(t.Context(), host, func(c *command) { c.Stdout.Write([]byte("ready")) })
	c.end = func(c *command) { close(ended); c.finish(129) }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	code, err := client.Attach(ctx, Local{Stdin: endless{}, Stdout: writer(func(b []byte) (int, error) {
		cancel()
		return out.Write(b)
	}), Stderr: io.Discard})
	if !errors.Is(err, context.Canceled) || code != 129 || out.String() != "ready" {
		t.Error(code, err, out.String())
	}
	<-ended
	<-done
}

// A connection that ends without close is a cut for both.
func TestCut(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	started := make(chan struct{})
	_, done := hosted(t.Context(), host, func(*command) { close(started) })
	go func() {
		<-started
		b.Close()
	}()
	_, err := client.Attach(t.Context(), Local{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Error(err)
	}
	<-done
}

// What is cut off in the middle of what a person sends is no end of it: a shell that reads its commands from there must not run half
// a line, so the command is ended before it could see one.
func TestCutIsNoEnd(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	half, saw := make(chan struct{}), make(chan struct{})
	c, done := hosted(t.Context(), host, func(c *command) {
		line := make([]byte, len("rm -r /data/"))
		_, _ = io.ReadFull(c.Stdin, line)
		close(half)
		_, _ = c.Stdin.Read(line)
		close(saw)
	})
	c.end = func(c *command) {
		time.Sleep(100 * time.Millisecond)
		select {
		case <-saw:
			t.Error("before it was ended the command saw an end of its input")
		default:
		}
		c.finish(129)
	}
	go func() {
		_ = client.Send(Start{}.Frame())
		_ = client.Send(Frame{TypeStdin, []byte("rm -r /data/")})
	}()
	go io.Copy(io.Discard, a)
	<-half
	b.Close()
	<-done
	<-saw // and is not waited for after that
}

func TestFailureToStart(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	want := bulwark.Fail(bulwark.KindBusy, "Too many.", "Wait.", errors.New("secret cause"))
	done := make(chan error, 1)
	go func() {
		done <- host.Host(t.Context(), func(Start, Streams) (Process, error) { return nil, want })
	}()
	_, err := client.Attach(t.Context(), Local{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if e, ok := errors.AsType[*bulwark.Error](err); !ok || e.Kind != bulwark.KindBusy || e.Hint != "Wait." || strings.Contains(e.Error(), "secret") {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, want) {
		t.Error(err)
	}
}

// The client is told why its command was not started, however much it had sent by then, and however the reason was wrapped.
func TestFailureIsNotLost(t *testing.T) {
	for range 50 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "end")
			ends[i], err = net.FileConn(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
		client, host := pair(t, ends[0], ends[1])
		why := fmt.Errorf("wrapped: %w", bulwark.Failf(bulwark.KindForbidden, "It was changed."))
		go host.Host(t.Context(), func(Start, Streams) (Process, error) { //nolint:errcheck // the client's side is what is tested
			time.Sleep(2 * time.Millisecond) // the client sends meanwhile
			return nil, why
		})
		_, err = client.Attach(t.Context(), Local{Stdin: strings.NewReader(strings.Repeat("x", 10_000)), Stdout: io.Discard, Stderr: io.Discard})
		if e, ok := errors.AsType[*bulwark.Error](err); !ok || e.Message != "It was changed." {
			t.Fatal(err)
		}
	}
}

// The node's time limit ends the command, and the client learns how.
func TestTimeLimit(t *testing.T) {
	a, b := net.Pipe()
	client, host := pair(t, a, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, done := hosted(ctx, host, func(*command) {})
	code, err := client.Attach(t.Context(), Local{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	if code != 129 || err != nil {
		t.Error(code, err)
	}
	<-done
}

func TestWelcomeIsVerified(t *testing.T) {
	n, digest := newNode(t), bulwark.Sum([]byte("statement"))
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	w := welcome(n, digest)
	envelope, _, err := Accept(w, k.Public(), n.private)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"another node's": func() error {
			other := newNode(t)
			forged, _, err := Accept(w, k.Public(), other.private)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = k.Open(nil, forged, n.public, digest)
			return err
		},
		"to another statement": func() error {
			_, _, err := k.Open(nil, envelope, n.public, bulwark.Sum([]byte("other")))
			return err
		},
		"altered": func() error {
			b := bytes.Clone(envelope)
			b[len(b)/2] ^= 1
			_, _, err := k.Open(nil, b, n.public, digest)
			return err
		},
		"a statement of the node's of another kind": func() error {
			other, err := statement.Seal(statement.InfoPayloadType, w, n.private)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = k.Open(nil, other, n.public, digest)
			return err
		},
	} {
		if err := open(); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckRecipient([]byte("short")); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Error(err)
	}
}

// Another's key does not open what a stream carries: an eavesdropper who has the welcome and the statement has nothing.
func TestAnotherKey(t *testing.T) {
	a, b := net.Pipe()
	n, digest := newNode(t), bulwark.Sum([]byte("statement"))
	mine, _ := NewKey()
	other, _ := NewKey()
	envelope, stream, err := Accept(welcome(n, digest), mine.Public(), n.private)
	if err != nil {
		t.Fatal(err)
	}
	eve, _, err := other.Open(a, envelope, n.public, digest)
	if err != nil {
		t.Fatal(err) // ML-KEM rejects in silence
	}
	host, err := stream(b)
	if err != nil {
		t.Fatal(err)
	}
	go eve.Send(Start{}.Frame())
	if _, err := host.Receive(); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Error(err)
	}
}

// relay is a connection whose bytes a test alters on their way.
type relay struct {
	bytes.Buffer
}

func (*relay) Close() error { return nil }

// What a relay can do to records is refused: change, repeat, drop, swap, cut, send back.
func TestTampering(t *testing.T) {
	record := func(s *Stream, wire *relay, f Frame) []byte {
		wire.Reset()
		if err := s.Send(f); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(wire.Bytes())
	}
	for name, c := range map[string]struct {
		alter func(start, one, two []byte) []byte
		kind  bulwark.Kind
	}{
		"changed":        {func(s, a, b []byte) []byte { a[9] ^= 1; return join(s, a) }, bulwark.KindForbidden},
		"longer":         {func(s, a, b []byte) []byte { a[1]++; return join(s, a, b) }, bulwark.KindForbidden},
		"repeated":       {func(s, a, b []byte) []byte { return join(s, a, a) }, bulwark.KindForbidden},
		"dropped":        {func(s, a, b []byte) []byte { return join(s, b) }, bulwark.KindForbidden},
		"swapped":        {func(s, a, b []byte) []byte { return join(s, b, a) }, bulwark.KindForbidden},
		"cut":            {func(s, a, b []byte) []byte { return join(s, a, b[:len(b)-1]) }, bulwark.KindUnavailable},
		"ended":          {func(s, a, b []byte) []byte { return join(s, a) }, bulwark.KindUnavailable},
		"without length": {func(s, a, b []byte) []byte { return join(s, []byte{0, 0}) }, bulwark.KindInvalid},
	} {
		out, in := &relay{}, &relay{}
		client, host := pair(t, out, in)
		s := record(client, out, Start{}.Frame())
		a := record(client, out, Frame{TypeStdin, []byte("rm -rf cache")})
		b := record(client, out, Frame{TypeStdin, []byte("\n")})
		in.Write(c.alter(s, a, b))
		var err error
		for err == nil {
			_, err = host.Receive()
		}
		if bulwark.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Sent back to its sender.
	out, in := &relay{}, &relay{}
	client, _ := pair(t, out, in)
	if err := client.Send(Start{}.Frame()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Receive(); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Error(err)
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestFramesOutOfPlace(t *testing.T) {
	stdin, end, start, closing := Frame{TypeStdin, []byte("x")}, Frame{Type: TypeStdinEnd}, Start{}.Frame(), Frame{Type: TypeClose}
	exit := Frame{TypeExit, []byte{0}}
	for _, c := range []struct {
		toHost bool
		frames []Frame
		ok     bool
	}{
		{true, []Frame{start, stdin, end, closing}, true},
		{true, []Frame{closing}, true},
		{true, []Frame{stdin}, false},
		{true, []Frame{start, start}, false},
		{true, []Frame{start, end, stdin}, false},
		{true, []Frame{start, end, end}, false},
		{true, []Frame{start, exit}, false},
		{false, []Frame{taken(1), exit, closing}, true},
		{false, []Frame{start}, false},
		{false, []Frame{exit, closing}, true},
	} {
		out, in := &relay{}, &relay{}
		client, host := pair(t, out, in)
		from, to := client, host
		wire, dest := out, in
		if !c.toHost {
			from, to, wire, dest = host, client, in, out
		}
		var err error
		for _, f := range c.frames {
			if err = from.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		dest.Write(wire.Bytes())
		for err == nil {
			_, err = to.Receive()
		}
		if c.ok != errors.Is(err, io.EOF) {
			t.Errorf("%v: %v", c.frames, err)
		}
	}
}

func TestSendRefuses(t *testing.T) {
	out := &relay{}
	client, _ := pair(t, out, &relay{})
	for _, f := range []Frame{{}, {Type: TypeStdin}, {TypeStdin, make([]byte, MaxPayload+1)}, {TypeSignal, []byte{9}}, {TypeWindow, []byte("abc")},
		Start{Term: "../etc/passwd"}.Frame(), {TypeTaken, []byte{255, 255, 255, 255}}, {Type: 99}} {
		if client.Send(f) == nil {
			t.Errorf("%v was sent", f)
		}
	}
	if err := client.Send(Frame{Type: TypeClose}); err != nil {
		t.Fatal(err)
	}
	if err := client.Send(Frame{Type: TypeAlive}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if TermName("xterm-256color") == "" || TermName("a/b") != "" || TermName(strings.Repeat("x", 65)) != "" {
		t.Error("TermName")
	}
}

// FuzzReceive has both ends read whatever a relay may send, and frames that open but hold anything.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 17, 1, 2, 3}, byte(TypeStart), []byte{0, 80, 0, 24, 'x'})
	f.Add([]byte{255, 255}, byte(TypeFailure), []byte(`{"kind":"busy"}`))
	f.Add([]byte{}, byte(TypeTaken), []byte{0, 0, 0, 1})
	key := sync.OnceValues(func() ([]byte, []byte) { return make([]byte, 32), bytes.Repeat([]byte{1}, 32) })
	f.Fuzz(func(t *testing.T, raw []byte, kind byte, data []byte) {
		a, b := key()
		for _, atNode := range []bool{false, true} {
			wire := &relay{}
			wire.Write(raw)
			s, err := newStream(wire, a, b, atNode)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Receive(); err == nil {
				t.Fatal("bytes that nobody sealed were taken")
			}
			fr := Frame{Type(kind), data}
			if fr.check() != nil {
				continue
			}
			from, to := &relay{}, &relay{}
			sender, _ := newStream(from, b, a, !atNode)
			receiver, _ := newStream(to, a, b, atNode)
			if err := sender.Send(fr); err != nil {
				t.Fatal(err)
			}
			to.Write(from.Bytes())
			got, err := receiver.Receive()
			if err == nil && (got.Type != fr.Type || !bytes.Equal(got.Data, fr.Data)) {
				t.Fatalf("%v became %v", fr, got)
			}
			if err == nil && got.Type == TypeFailure && got.Failure() == nil {
				t.Fatal("a failure without an error")
			}
		}
	})
}

// FuzzWelcome has a client read whatever a relay may send in a welcome's place.
func FuzzWelcome(f *testing.F) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	n := node{private, statement.NewKey(private.Public().(ed25519.PublicKey))}
	bad := welcome(n, bulwark.Sum(nil))
	bad.Encapsulated = []byte("no key")
	w, err := SealWelcome(bad, private)
	if err != nil {
		f.Fatal(err)
	}
	var wire bytes.Buffer
	if err := WriteWelcome(&wire, w); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes())
	f.Add([]byte{255, 255, 255, 255})
	k, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := ReadWelcome(bytes.NewReader(b))
		if err != nil {
			return
		}
		if s, _, err := k.Open(&relay{}, w, n.public, bulwark.Sum(nil)); err == nil || s != nil {
			t.Fatal("a welcome with no key was opened")
		}
	})
}

// endless is a stdin that never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

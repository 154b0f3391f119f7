package fdpass

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// open counts the process's open descriptors.
func open(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func pair(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

type message struct {
	Text string `json:"text"`
}

func TestFilesArriveWithTheirMessage(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send(message{"hello"}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := a.Send(message{"bare"}); err != nil {
		t.Fatal(err)
	}
	var m message
	files, err := b.Receive(&m)
	if err != nil || m.Text != "hello" || len(files) != 1 {
		t.Fatal(m, files, err)
	}
	flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %x %v", flags, err)
	}
	io.WriteString(files[0], "through")
	files[0].Close()
	if got, _ := io.ReadAll(r); string(got) != "through" {
		t.Errorf("got %q", got)
	}
	if files, err := b.Receive(&m); err != nil || m.Text != "bare" || len(files) != 0 {
		t.Error(m, files, err)
	}
	a.Close()
	if _, err := b.Receive(&m); err != io.EOF {
		t.Error(err)
	}
}

// TestNothingLeaks sends what is refused, each with descriptors, and counts.
func TestNothingLeaks(t *testing.T) {
	a, b := pair(t)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := func(body string, n int) {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = int(f.Fd())
		}
		if _, _, err := a.sock.WriteMsgUnix([]byte(body), unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
	}
	var m message
	if err := a.Send(message{"warm"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(&m); err != nil {
		t.Fatal(err)
	}
	before := open(t)
	for name, send := range map[string]func(){
		"no JSON":         func() { raw("{", 1) },
		"unknown field":   func() { raw(`{"x":1}`, 2) },
		"two values":      func() { raw(`{"text":"a"}{"text":"b"}`, 1) },
		"too many files":  func() { raw(`{"text":"a"}`, MaxFiles+20) },
		"too long":        func() { raw(`{"text":"`+strings.Repeat("x", MaxMessage)+`"}`, 3) },
		"all the allowed": func() { raw(`{"text":1}`, MaxFiles) },
	} {
		send()
		if files, err := b.Receive(&m); err == nil || files != nil {
			t.Errorf("%s was taken: %v", name, files)
		}
		if now := open(t); now != before {
			t.Errorf("%s: %d descriptors were open and %d are", name, before, now)
		}
	}
	if err := a.Send(message{strings.Repeat("x", MaxMessage)}); bulwark.KindOf(err) != bulwark.KindTooLarge {
		t.Error(err)
	}
	if err := a.Send(message{strings.Repeat("x", MaxMessage-100)}); err != nil {
		t.Error("the largest message does not fit into the socket:", err)
	}
}

func TestPeer(t *testing.T) {
	a, _ := pair(t)
	pid, uid, gid, err := Peer(a.Socket())
	if err != nil || int(pid) != os.Getpid() || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
		t.Error(pid, uid, gid, err)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, err := NewNotifier(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	f, err := Sealed("table", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, err := range []error{n.Notify("READY=1"), n.NotifyStore("table", f), n.NotifyRemove("table")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	buf, oob := make([]byte, 100), make([]byte, 100)
	for i, want := range []string{"READY=1", "FDSTORE=1\nFDNAME=table", "FDSTOREREMOVE=1\nFDNAME=table"} {
		got, on, _, _, err := l.ReadMsgUnix(buf, oob)
		if err != nil || string(buf[:got]) != want {
			t.Fatalf("%q %v", buf[:got], err)
		}
		files := rights(oob[:on])
		if (i == 1) != (len(files) == 1) {
			t.Fatalf("%d files with %q", len(files), want)
		}
		if i == 1 {
			if b, err := ReadSealed(files[0], 100); err != nil || string(b) != "content" {
				t.Errorf("%q %v", b, err)
			}
			CloseAll(files)
		}
	}
	for _, name := range []string{"", "a:b", "a\nFDSTORE=1", strings.Repeat("x", 300)} {
		if err := n.NotifyStore(name, f); err == nil {
			t.Errorf("%q was taken as a name", name)
		}
	}
	var nobody *Notifier
	if errors.Join(nobody.Notify("x"), nobody.NotifyStore("x", f), nobody.NotifyRemove("x"), nobody.Close()) != nil {
		t.Error("a nil notifier fails")
	}
	if _, err := NewNotifier("relative"); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Error(err)
	}
}

func TestSealedCannotChange(t *testing.T) {
	f, err := Sealed("x", []byte("constant"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("X"), 0); err == nil {
		t.Error("it was written to")
	}
	if err := f.Truncate(1); err == nil {
		t.Error("it was cut")
	}
	if _, err := ReadSealed(f, 3); bulwark.KindOf(err) != bulwark.KindTooLarge {
		t.Error(err)
	}
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := ReadSealed(plain, 100); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Error(err)
	}
}

func TestListenersRefuseNonsense(t *testing.T) {
	for _, env := range [][]string{{"LISTEN_FDS=-1"}, {"LISTEN_FDS=x"}, {"LISTEN_FDS=5000"}, {"LISTEN_FDS=1000"}} {
		if _, err := Listeners(env); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%v: %v", env, err)
		}
	}
	for _, env := range [][]string{nil, {"LISTEN_FDS=3", "LISTEN_PID=1"}, {"LISTEN_FDS=0"}} {
		if got, err := Listeners(env); err != nil || len(got) != 0 {
			t.Errorf("%v: %v %v", env, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":1,"instance":"ins_00000000000000000000000000","host":"a.org"}`))
	f.Add([]byte(`{"id":1,"leaving":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req bulwark.DialRequest
		if Decode(b, &req) == nil && req.Host != "" {
			if h, err := bulwark.ParseHostPattern(string(req.Host)); err != nil || h != req.Host {
				t.Errorf("%q was taken as a host", req.Host)
			}
		}
		var reply bulwark.DialReply
		_ = Decode(b, &reply)
	})
}

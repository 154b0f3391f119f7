package node

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
)

// A node that begins anew tells dial of the first instance that answers. What an earlier node had registered goes on being
// reached meanwhile.
func TestDialerInherits(t *testing.T) {
	path := startDial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ns := namespace(t)
	entry := func() dial.Entry {
		return dial.Entry{NetNS: ns, Registration: bulwark.Registration{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID(), Address: "10.0.0.1", Port: 80}}
	}
	newDialer := func() *dialer {
		return &dialer{path: path, log: slog.New(slog.DiscardHandler), entries: map[bulwark.InstanceID]dial.Entry{}}
	}
	before := newDialer()
	stays, answers, ended := entry(), entry(), entry()
	for _, e := range []dial.Entry{stays, answers, ended} {
		if err := before.register(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	before.client.Close()

	after := newDialer()
	told := after.told(ctx)
	for _, e := range []dial.Entry{stays, answers} { // of those that run
		if !told[e.Registration.Instance] {
			t.Fatal("dial does not tell what it knows", told)
		}
		after.inherit(e)
	}
	if err := after.register(ctx, answers); err != nil {
		t.Fatal(err)
	}
	known, err := after.client.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []bulwark.InstanceID{stays.Registration.Instance, answers.Registration.Instance}
	slices.Sort(want)
	if !slices.Equal(known, want) {
		t.Fatalf("dial knows %v, not %v", known, want)
	}
}

// startDial runs the real one, which finds no edge, and returns its socket for the node.
func startDial(t *testing.T) string {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dial.Run(ctx, dial.Config{Node: l, EdgePath: filepath.Join(dir, "edge.sock")}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return path
}

// namespace makes a network namespace, in which nothing is.
func namespace(t *testing.T) *os.File {
	type made struct {
		f   *os.File
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(func() { m.f.Close() })
	return m.f
}

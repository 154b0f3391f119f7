package node

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
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

// In random histories, in which instances come and go, dial ends and comes back, and the node does, dial knows what it was told, and when
// it has been looked at, all that it should know and no more: also beside registrations that it refuses.
func TestDialerHistories(t *testing.T) {
	const histories, events = 150, 30
	ns := namespace(t)
	entry := func(port uint16) dial.Entry {
		return dial.Entry{NetNS: ns, Registration: bulwark.Registration{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID(), Address: "10.0.0.1", Port: port}}
	}
	for seed := range uint64(histories) {
		random := rand.New(rand.NewPCG(seed, 0))
		path := filepath.Join(t.TempDir(), "node.sock")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		newDialer := func() *dialer {
			return &dialer{path: path, log: slog.New(slog.DiscardHandler), entries: map[bulwark.InstanceID]dial.Entry{}}
		}
		d := newDialer()
		stop := dialAt(t, path)
		want := map[bulwark.InstanceID]dial.Entry{}
		var said []string
		failed := func(what string, details ...any) {
			t.Fatalf("history %d, %v: %s %v", seed, said, what, details)
		}
		check := func(id bulwark.InstanceID, known bool) {
			if stop == nil {
				return
			}
			c, err := dial.Connect(path)
			if err != nil {
				failed("dial", err)
			}
			defer c.Close()
			all, err := c.List(ctx)
			if err != nil || slices.Contains(all, id) != known {
				failed("dial knows", all, err, "and of", id, "not", known)
			}
		}
		for range events {
			switch n := random.IntN(20); {
			case n < 7:
				said = append(said, "register")
				e := entry(80)
				want[e.Registration.Instance] = e
				if err := d.register(ctx, e); (err == nil) != (stop != nil) {
					failed("register", err)
				}
				check(e.Registration.Instance, true)
			case n < 9:
				said = append(said, "refused")
				e := entry(0)
				if err := d.register(ctx, e); err == nil {
					failed("it was not refused")
				}
				check(e.Registration.Instance, false)
			case n < 13:
				said = append(said, "unregister")
				for id := range want {
					delete(want, id)
					if err := d.unregister(ctx, id); stop != nil && err != nil {
						failed("unregister", err)
					}
					check(id, false)
					break
				}
			case n < 15:
				said = append(said, "dial ends")
				if stop != nil {
					stop()
					stop = nil
				}
			case n < 17:
				said = append(said, "dial begins")
				if stop == nil {
					stop = dialAt(t, path)
				}
			case n < 18:
				said = append(said, "the node begins anew")
				told := map[bulwark.InstanceID]bool{}
				if d.client != nil {
					d.client.Close()
				}
				d = newDialer()
				if stop != nil {
					told = d.told(ctx)
				}
				for id, e := range want { // what runs; the rest is tried first, and registered then
					if told[id] {
						d.inherit(e)
					} else if err := d.register(ctx, e); stop != nil && err != nil {
						failed("register again", err)
					}
				}
			default:
				said = append(said, "look")
				d.look(ctx)
				if stop == nil {
					continue
				}
				known, err := d.client.List(ctx)
				if err != nil || !slices.Equal(known, slices.Sorted(maps.Keys(want))) {
					failed("after a look dial knows", known, err, "not", want)
				}
			}
		}
		if stop != nil {
			stop()
		}
		cancel()
	}
}

// startDial runs the real one, which finds no edge, and returns its socket for the node.
func startDial(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "node.sock")
	t.Cleanup(dialAt(t, path))
	return path
}

// dialAt runs dial with a socket at path until it is stopped.
func dialAt(t *testing.T, path string) (stop func()) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- dial.Run(ctx, dial.Config{Node: l, EdgePath: path + ".edge", Logger: slog.New(slog.DiscardHandler)})
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		os.Remove(path)
	}
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

// A dial that somebody owns refuses what it was told of before. The node leaves it there and forgets nothing: the dial that takes its place
// is told of all that runs.
func TestDialerOwned(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	path := filepath.Join(t.TempDir(), "node.sock")
	d := &dialer{path: path, log: slog.New(slog.DiscardHandler), entries: map[bulwark.InstanceID]dial.Entry{}}
	ns := namespace(t)
	stop := dialAt(t, path)
	var all []bulwark.InstanceID
	for range 3 {
		e := dial.Entry{NetNS: ns, Registration: bulwark.Registration{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID(), Address: "10.0.0.1", Port: 80}}
		must(t, d.register(ctx, e))
		all = append(all, e.Registration.Instance)
	}
	slices.Sort(all)
	stop()
	stop = ownedDialAt(t, path, all[1])
	d.look(ctx)
	d.look(ctx)
	if d.client == nil || !d.passed[all[1]] || len(d.passed) != 1 {
		t.Fatal("what the owned dial refuses is not passed over", d.passed)
	}
	stop()
	t.Cleanup(dialAt(t, path))
	d.look(ctx)
	if known, err := d.client.List(ctx); err != nil || !slices.Equal(known, all) {
		t.Fatalf("the next dial knows %v, not %v (%v)", known, all, err)
	}
}

// ownedDialAt answers as dial does, but refuses one instance.
func ownedDialAt(t *testing.T, path string, not bulwark.InstanceID) (stop func()) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	known := map[bulwark.InstanceID]bool{}
	var mu sync.Mutex
	go func() {
		ended <- fdpass.Server{Listener: l, User: uint32(os.Getuid()), Most: 4, Log: slog.New(slog.DiscardHandler), Serve: func(c *fdpass.Conn) {
			for {
				var in struct {
					Op           string                `json:"op"`
					Registration *bulwark.Registration `json:"registration"`
					Instance     bulwark.InstanceID    `json:"instance"`
				}
				files, err := c.Receive(&in)
				fdpass.CloseAll(files)
				if err != nil {
					return
				}
				var out struct {
					Error     *bulwark.Error       `json:"error,omitempty"`
					Instances []bulwark.InstanceID `json:"instances,omitempty"`
				}
				mu.Lock()
				switch {
				case in.Registration != nil && in.Registration.Instance == not:
					out.Error = &bulwark.Error{Kind: bulwark.KindInvalid, Message: "No."}
				case in.Registration != nil:
					known[in.Registration.Instance] = true
				case in.Op == "list":
					out.Instances = slices.Sorted(maps.Keys(known))
				}
				mu.Unlock()
				if c.Send(out) != nil {
					return
				}
			}
		}}.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
		os.Remove(path)
	}
}

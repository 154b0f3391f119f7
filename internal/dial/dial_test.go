package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// stand is a running dial with a node's client and a fake edge.
type stand struct {
	t     *testing.T
	node  *Client
	edge  *fdpass.Conn
	edges *net.UnixListener
	dir   string
}

func packets(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func start(t *testing.T, change func(*Config)) *stand {
	t.Helper()
	dir := t.TempDir()
	s := &stand{t: t, dir: dir, edges: packets(t, filepath.Join(dir, "edge"))}
	cfg := Config{Node: packets(t, filepath.Join(dir, "node")), EdgePath: filepath.Join(dir, "edge"), Timeout: 300 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	})
	s.edge = s.acceptEdge()
	var err error
	if s.node, err = Connect(filepath.Join(dir, "node")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.node.Close() })
	return s
}

func (s *stand) acceptEdge() *fdpass.Conn {
	s.t.Helper()
	sock, err := s.edges.AcceptUnix()
	if err != nil {
		s.t.Fatal(err)
	}
	c := fdpass.New(sock)
	s.t.Cleanup(func() { c.Close() })
	if err := c.Send(bulwark.DialRequest{Taken: true}); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ask sends one request as the edge and returns the connection or the reason.
func ask(t *testing.T, edge *fdpass.Conn, id bulwark.InstanceID, host bulwark.HostName) (net.Conn, bulwark.DialError) {
	t.Helper()
	if err := edge.Send(bulwark.DialRequest{ID: 7, Instance: id, Host: host}); err != nil {
		t.Fatal(err)
	}
	var reply bulwark.DialReply
	files, err := edge.Receive(&reply)
	if err != nil {
		t.Fatal(err)
	}
	if reply.ID != 7 || (reply.Error == "") != (len(files) == 1) {
		t.Fatalf("reply %+v with %d files", reply, len(files))
	}
	if reply.Error != "" {
		return nil, reply.Error
	}
	defer files[0].Close()
	c, err := net.FileConn(files[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, ""
}

func entry(s *space, port int, hosts ...bulwark.HostName) Entry {
	return Entry{NetNS: s.file, Registration: bulwark.Registration{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID(),
		Address: "127.0.0.1", Port: uint16(port), Hosts: hosts}}
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func greet(l net.Listener, what string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, what)
		c.Close()
	}
}

// greeter registers an instance that greets who connects.
func (s *stand) greeter(host bulwark.HostName) Entry {
	s.t.Helper()
	ns := newSpace(s.t)
	l := ns.listen("127.0.0.1:0")
	go greet(l, "hello")
	e := entry(ns, port(l), host)
	if err := s.node.Register(s.t.Context(), e); err != nil {
		s.t.Fatal(err)
	}
	return e
}

func selfNS(t *testing.T) string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	main, err := os.Readlink("/proc/self/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	return main
}

func TestSocketReachesOnlyWhatIsRegistered(t *testing.T) {
	ctx := t.Context()
	before := selfNS(t)
	s := start(t, nil)
	one, two := newSpace(t), newSpace(t)
	l1 := one.listen("127.0.0.1:0")
	go greet(l1, "one")
	l2 := two.listen(fmt.Sprintf("127.0.0.1:%d", port(l1))) // the same address and port, in another world
	go greet(l2, "two")
	e1, e2 := entry(one, port(l1), "one.example.org", "www.example.org", "*.wild.example.org"), entry(two, port(l2), "two.example.org", "own.wild.example.org")
	for _, e := range []Entry{e1, e2} {
		if err := s.node.Register(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 { // both workers go to and fro
		for _, c := range []struct {
			id   bulwark.InstanceID
			host bulwark.HostName
			want string
		}{
			{e1.Registration.Instance, "one.example.org", "one"},
			{e1.Registration.Instance, "www.example.org", "one"},
			{e1.Registration.Instance, "any.wild.example.org", "one"},
			{e2.Registration.Instance, "two.example.org", "two"},
		} {
			conn, why := ask(t, s.edge, c.id, c.host)
			if why != "" {
				t.Fatal(c.host, why)
			}
			if got, _ := io.ReadAll(conn); string(got) != c.want {
				t.Fatalf("%s answered %q", c.host, got)
			}
		}
	}
	for name, c := range map[string]struct {
		id   bulwark.InstanceID
		host bulwark.HostName
		want bulwark.DialError
	}{
		"another's host":      {e1.Registration.Instance, "two.example.org", bulwark.DialDenied},
		"no host":             {e1.Registration.Instance, "", bulwark.DialDenied},
		"host below":          {e1.Registration.Instance, "a.one.example.org", bulwark.DialDenied},
		"no such instance":    {bulwark.NewInstanceID(), "one.example.org", bulwark.DialUnknown},
		"no instance at all":  {"", "one.example.org", bulwark.DialUnknown},
		"another's own":       {e1.Registration.Instance, "own.wild.example.org", bulwark.DialDenied},
		"below a pattern":     {e1.Registration.Instance, "a.any.wild.example.org", bulwark.DialDenied},
		"above a pattern":     {e1.Registration.Instance, "wild.example.org", bulwark.DialDenied},
		"another's pattern":   {e2.Registration.Instance, "any.wild.example.org", bulwark.DialDenied},
		"host above, and dot": {e1.Registration.Instance, "example.org", bulwark.DialDenied},
	} {
		if _, why := ask(t, s.edge, c.id, c.host); why != c.want {
			t.Errorf("%s: %q, want %q", name, why, c.want)
		}
	}
	// Nobody listens on a neighbouring port, although something does in the other world.
	l3 := two.listen("127.0.0.1:0")
	e3 := entry(one, port(l3), "three.example.org")
	if err := s.node.Register(ctx, e3); err != nil {
		t.Fatal(err)
	}
	if _, why := ask(t, s.edge, e3.Registration.Instance, "three.example.org"); why != bulwark.DialRefused {
		t.Errorf("got %q", why)
	}
	if after := selfNS(t); after != before {
		t.Errorf("the process was in %s and is in %s", before, after)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a thread astray would make this listener elsewhere
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestTimeoutIsToldApart(t *testing.T) {
	s := start(t, nil)
	ns := newSpace(t)
	ns.deaf(8080)
	e := entry(ns, 8080, "deaf.example.org")
	if err := s.node.Register(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, why := ask(t, s.edge, e.Registration.Instance, "deaf.example.org"); why != bulwark.DialTimeout {
		t.Errorf("got %q", why)
	}
}

func TestNodeVerbs(t *testing.T) {
	ctx := t.Context()
	s := start(t, nil)
	ns := newSpace(t)
	a, b, c := entry(ns, 1, "a.org"), entry(ns, 2, "b.org"), entry(ns, 3, "c.org")
	check := func(want ...Entry) {
		t.Helper()
		var ids []bulwark.InstanceID
		for _, e := range want {
			ids = append(ids, e.Registration.Instance)
		}
		slices.Sort(ids)
		got, err := s.node.List(ctx)
		if err != nil || !slices.Equal(got, ids) {
			t.Fatalf("List: %v %v, want %v", got, err, ids)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	must(s.node.Register(ctx, a))
	must(s.node.Register(ctx, a))
	must(s.node.Register(ctx, b))
	check(a, b)
	must(s.node.Sync(ctx, []Entry{b, c}))
	check(b, c)
	must(s.node.Unregister(ctx, b.Registration.Instance))
	if err := s.node.Unregister(ctx, b.Registration.Instance); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("unregister twice: %v", err)
	}
	check(c)
	if _, why := ask(t, s.edge, b.Registration.Instance, "b.org"); why != bulwark.DialUnknown {
		t.Errorf("an unregistered instance: %q", why)
	}
	t.Run("bad registrations", func(t *testing.T) {
		home, err := Home()
		must(err)
		defer home.Close()
		file, err := os.Open("/proc/self/status")
		must(err)
		defer file.Close()
		for name, change := range map[string]func(*Entry){
			"own namespace":   func(e *Entry) { e.NetNS = home },
			"not a namespace": func(e *Entry) { e.NetNS = file },
			"no port":         func(e *Entry) { e.Registration.Port = 0 },
			"a name":          func(e *Entry) { e.Registration.Address = "localhost" },
			"any address":     func(e *Entry) { e.Registration.Address = "0.0.0.0" },
			"multicast":       func(e *Entry) { e.Registration.Address = "224.0.0.1" },
		} {
			e := entry(ns, 9, "x.org")
			change(&e)
			if err := s.node.Register(ctx, e); bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		check(c)
	})
	t.Run("a sync that breaks off changes nothing", func(t *testing.T) {
		bad := a
		bad.Registration.Port = 0
		if err := s.node.Sync(ctx, []Entry{b, bad}); err == nil {
			t.Fatal("no error")
		}
		var err error
		s.node, err = Connect(filepath.Join(s.dir, "node"))
		must(err)
		defer s.node.Close()
		check(c)
	})
}

func TestListPages(t *testing.T) {
	s := start(t, nil)
	ns := newSpace(t)
	var entries []Entry
	for i := range listPage + 1 {
		entries = append(entries, entry(ns, i+1, "x.org"))
	}
	if err := s.node.Sync(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	if got, err := s.node.List(t.Context()); err != nil || len(got) != len(entries) {
		t.Fatal(len(got), err)
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	s := start(t, func(c *Config) { c.NodeUID = 4242 })
	if _, err := s.node.List(t.Context()); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Fatalf("a peer of another user got %v", err)
	}
}

// However many edges there are, each finds dial waiting at its socket.
func TestEveryEdgeFindsDial(t *testing.T) {
	s := start(t, nil)
	e := s.greeter("a.org")
	works := func(edge *fdpass.Conn) {
		t.Helper()
		if _, why := ask(t, edge, e.Registration.Instance, "a.org"); why != "" {
			t.Fatal(why)
		}
	}
	works(s.edge)
	second := s.acceptEdge() // waits there already
	third := s.acceptEdge()
	works(s.edge)
	works(second)
	s.edge.Close()
	works(third)
	works(second)
	second.Close() // dies without a word
	third.Close()
	works(s.acceptEdge())
}

// A node that was started again registers everything anew, while requests come: none of them is refused for it.
func TestRegisteredAnewUnderLoad(t *testing.T) {
	s := start(t, nil)
	e := s.greeter("a.org")
	const asks = 3000
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = s.node.Sync(t.Context(), []Entry{e})
		}
		done <- err
	}()
	go func() {
		for id := range asks {
			if s.edge.Send(bulwark.DialRequest{ID: uint64(id), Instance: e.Registration.Instance, Host: "a.org"}) != nil {
				return // the edge's end tells why
			}
		}
	}()
	for range asks {
		var reply bulwark.DialReply
		files, err := s.edge.Receive(&reply)
		if err != nil || reply.Error != "" {
			t.Fatalf("%+v %v", reply, err)
		}
		fdpass.CloseAll(files)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestNonsenseFromTheEdge(t *testing.T) {
	s := start(t, nil)
	for _, bad := range []any{"text", map[string]any{"id": -1}, map[string]any{"id": 1, "instance": "../x"}, map[string]any{"id": 1, "shell": "x"}} {
		if err := s.edge.Send(bad); err != nil {
			t.Fatal(err)
		}
		var reply bulwark.DialReply
		if _, err := s.edge.Receive(&reply); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%v got %+v, %v", bad, reply, err)
		}
		s.edge = s.acceptEdge()
	}
}

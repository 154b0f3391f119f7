package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// steal duplicates the connection of packets that a process has by way of a socket, as who owns the process has it (pidfd_getfd(2)).
func steal(pid int, path string) (*fdpass.Conn, error) {
	all, err := stealAll(pid, path)
	if err != nil {
		return nil, err
	}
	for _, c := range all[1:] {
		c.Close()
	}
	return all[0], nil
}

// stealAll is steal for a process that may have several, of which there is at least one.
func stealAll(pid int, path string) (all []*fdpass.Conn, err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil, err
	}
	for _, e := range fds {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			continue // closed meanwhile
		}
		kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || kind != unix.SOCK_SEQPACKET || listens != 0 {
			unix.Close(fd)
			continue
		}
		mine, _ := unix.Getsockname(fd)
		its, _ := unix.Getpeername(fd)
		over := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		unix.Poll(over, 0)
		if a, b := named(mine), named(its); a != path && b != path || over[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0 {
			unix.Close(fd)
			continue
		}
		f := os.NewFile(uintptr(fd), "stolen")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, fdpass.New(c.(*net.UnixConn)))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("process %d has no connection by way of %s", pid, path)
	}
	return all, nil
}

// freeze stops a process and waits until none of its threads runs: one that is about to stop may still take what is for who plays it.
func freeze(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return poll(10*time.Second, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, f := range threads {
			b, err := os.ReadFile(f)
			if _, rest, _ := strings.Cut(string(b), ") "); err == nil && !strings.HasPrefix(rest, "T") {
				return fmt.Errorf("a thread of process %d runs", pid)
			}
		}
		return err
	})
}

func named(a unix.Sockaddr) string {
	if u, ok := a.(*unix.SockaddrUnix); ok {
		return u.Name
	}
	return ""
}

// open counts the descriptors of a process.
func open(pid int) int {
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(fds)
}

// instanceOf returns an instance of an app, of a process type.
func instanceOf(ts *testscript.TestScript, app string, process bulwark.ProcessType) nodeapi.Instance {
	on := of(ts).on
	var all []nodeapi.Instance
	ts.Check(nodeapi.NewClient(on.inst.Socket(install.NodeVerbs)).Call(context.Background(), "instances", struct{}{}, &all))
	for _, i := range all {
		var r nodeapi.Released
		err := nodeapi.NewClient(on.inst.Socket(install.NodeVerbs)).Call(context.Background(), "bundle", nodeapi.Promote{App: i.App, Generation: i.Generation}, &r)
		if err == nil && string(r.Release.Name) == app && i.Process == process && i.Phase == nodeapi.PhaseHealthy {
			return i
		}
	}
	ts.Fatalf("no %s of %s runs", process, app)
	return nodeapi.Instance{}
}

// hostileEdge plays an edge that is owned: "hostileedge VICTIM EVIL", where the victim has a worker, too. It asks dial for what is not the edge's.
func hostileEdge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hostileedge VICTIM EVIL")
	}
	on := of(ts).on
	edge, err := on.pid("edge")
	ts.Check(err)
	dial, err := on.pid("dial")
	ts.Check(err)
	victim, evil, worker := instanceOf(ts, args[0], "web"), instanceOf(ts, args[1], "web"), instanceOf(ts, args[0], "worker")
	host := func(app string) bulwark.HostName { return bulwark.HostName(app + "." + domain) }

	ts.Check(freeze(edge))
	defer syscall.Kill(edge, syscall.SIGCONT)
	conn, err := steal(edge, on.inst.Socket(install.EdgeDial))
	ts.Check(err)
	defer func() { conn.Close() }()
	before := open(dial)
	asked := uint64(1 << 40)
	// again takes the connection that dial makes after it hung up on what it could not read.
	again := func() {
		conn.Close()
		ts.Check(syscall.Kill(edge, syscall.SIGCONT))
		ts.Check(poll(10*time.Second, func() (err error) {
			conn, err = steal(edge, on.inst.Socket(install.EdgeDial))
			return err
		}))
		ts.Check(freeze(edge))
	}
	ask := func(i bulwark.InstanceID, h bulwark.HostName, files ...*os.File) (bulwark.DialReply, []*os.File) {
		asked++
		ts.Check(conn.Send(bulwark.DialRequest{ID: asked, Instance: i, Host: h}, files...))
		ts.Check(conn.SetDeadline(time.Now().Add(10 * time.Second)))
		var reply bulwark.DialReply
		got, err := conn.Receive(&reply)
		if errors.Is(err, io.EOF) {
			again()
			return bulwark.DialReply{Error: "hung up"}, nil
		}
		ts.Check(err)
		if reply.ID != asked {
			ts.Fatalf("question %d was answered as %d", asked, reply.ID)
		}
		return reply, got
	}
	// What is its due: otherwise a refusal says nothing.
	reply, files := ask(victim.Instance, host(args[0]))
	if reply.Error != "" || len(files) != 1 {
		ts.Fatalf("the victim's instance is not reached for the victim's host: %+v", reply)
	}
	c, err := net.FileConn(files[0])
	ts.Check(err)
	fdpass.CloseAll(files)
	if at, _ := netip.ParseAddrPort(c.RemoteAddr().String()); at != victim.At {
		ts.Fatalf("the socket leads to %s", c.RemoteAddr())
	}
	c.Close()
	v := victim.Instance
	for what, q := range map[string]struct {
		instance bulwark.InstanceID
		host     bulwark.HostName
	}{
		"another's host":            {evil.Instance, host(args[0])},
		"another's instance":        {v, host(args[1])},
		"a worker":                  {worker.Instance, host(args[0])},
		"no host":                   {v, ""},
		"a host that nobody has":    {v, "nobody.example.org"},
		"a wildcard":                {v, "*." + domain},
		"the domain itself":         {v, domain},
		"a host with a zero":        {v, host(args[0]) + "\x00"},
		"an instance that is not":   {bulwark.NewInstanceID(), host(args[0])},
		"no instance":               {"", host(args[0])},
		"an instance that climbs":   {"../../etc", host(args[0])},
		"an address as an instance": {"127.0.0.1:22", host(args[0])},
	} {
		reply, files := ask(q.instance, q.host)
		if reply.Error == "" || len(files) > 0 {
			ts.Fatalf("%s was had: %+v", what, reply)
		}
	}
	null, err := os.Open(os.DevNull)
	ts.Check(err)
	defer null.Close()
	for range 50 { // what comes with a question is not kept
		_, files := ask(v, "nobody.example.org", null, null, null)
		fdpass.CloseAll(files)
	}
	if err := poll(5*time.Second, func() error {
		if now := open(dial); now > before+2 {
			return fmt.Errorf("dial had %d descriptors and has %d", before, now)
		}
		return nil
	}); err != nil {
		ts.Fatalf("%v", err)
	}
	sock := conn.Socket()
	for _, b := range garbage() {
		sock.Write(b) // dial hangs up on it, after which there is nobody to write to
	}
	if now, err := on.pid("dial"); err != nil || now != dial {
		ts.Fatalf("dial did not survive: %v", err)
	}
}

// garbage is what no process understands.
func garbage() [][]byte {
	return [][]byte{[]byte("{"), []byte(`{"id":-1}`), []byte(`{"id":"x"}`), []byte("null"), {0xff, 0xfe}, []byte(`{"op":"register"}`), []byte(strings.Repeat("[", 30000)), make([]byte, 60000)}
}

// hostileDial plays a dial that is owned: "hostiledial APP". It answers the edge and the node with what is no answer.
func hostileDial(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hostiledial APP")
	}
	on := of(ts).on
	edge, err := on.pid("edge")
	ts.Check(err)
	node, err := on.pid("node")
	ts.Check(err)
	dial, err := on.pid("dial")
	ts.Check(err)
	var conns []*fdpass.Conn // one that the edge took, and one that waits for the next edge
	ts.Check(poll(10*time.Second, func() (err error) {
		conns, err = stealAll(dial, on.inst.Socket(install.EdgeDial))
		return err
	}))
	conn := conns[0]
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	ts.Check(freeze(dial))
	defer syscall.Kill(dial, syscall.SIGKILL) // its successor connects anew
	misled(ts, dial, node, install.DialNode)

	passwd, err := os.Open("/etc/passwd")
	ts.Check(err)
	defer passwd.Close()
	r, w, err := os.Pipe()
	ts.Check(err)
	defer r.Close()
	defer w.Close()
	socket := func(family, kind int) *os.File {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		ts.Check(err)
		return os.NewFile(uintptr(fd), "socket")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	listening, err := l.(*net.TCPListener).File()
	ts.Check(err)
	defer listening.Close()
	answers := []func(id uint64){
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, passwd) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, r) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, w) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, passwd, passwd, passwd) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, listening) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, socket(unix.AF_INET, unix.SOCK_STREAM)) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, socket(unix.AF_INET, unix.SOCK_DGRAM)) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, socket(unix.AF_UNIX, unix.SOCK_STREAM)) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id}, socket(unix.AF_UNIX, unix.SOCK_DGRAM)) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id, Error: "nothing that you know"}) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id, Error: "refused"}, passwd) },
		func(id uint64) { conn.Send(bulwark.DialReply{ID: id + 1}, passwd) },
		func(uint64) {
			for _, b := range garbage() {
				conn.Socket().Write(b)
			}
		},
	}
	t, err := on.transport(false)
	ts.Check(err)
	t.DisableKeepAlives = true
	client := &http.Client{Transport: t, Timeout: 40 * time.Second}
	url := fmt.Sprintf("https://%s.%s:%s/", args[0], domain, on.ports["HTTPS"])
	// The edge keeps connections to instances: it asks again when they are in use or at their end.
	before := open(edge)
	lied := 0
	for begin := time.Now(); lied < len(answers) && time.Since(begin) < time.Minute; {
		done := make(chan string, 1)
		go func() {
			resp, err := client.Get(url)
			if err != nil {
				done <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			done <- resp.Status + " " + string(b)
		}()
		var out string
		for out == "" {
			for _, c := range conns {
				var q bulwark.DialRequest
				ts.Check(c.SetDeadline(time.Now().Add(100 * time.Millisecond)))
				files, err := c.Receive(&q)
				fdpass.CloseAll(files)
				if conn = c; err == nil && !q.Taken {
					answers[lied%len(answers)](q.ID)
					lied++
				} else if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					lied = len(answers) // it hung up on the garbage
				}
			}
			select {
			case out = <-done:
			default:
			}
		}
		if strings.Contains(out, "root:") {
			ts.Fatalf("the edge serves a file that dial gave to it: %s", out)
		}
	}
	if lied < len(answers) {
		ts.Fatalf("the edge asked only %d times", lied)
	}
	if now, err := on.pid("edge"); err != nil || now != edge {
		ts.Fatalf("the edge did not survive: %v", err)
	}
	if err := poll(10*time.Second, func() error {
		if now := open(edge); now > before+5 {
			return fmt.Errorf("the edge had %d descriptors and has %d", before, now)
		}
		return nil
	}); err != nil {
		ts.Fatalf("%v", err)
	}
}

// hostileHelper plays an egress or a resolver that is owned, towards the node, while a command gives the node something to ask for:
// "hostilehelper PROCESS PROGRAM ARG...".
func hostileHelper(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: hostilehelper PROCESS PROGRAM ARG...")
	}
	on := of(ts).on
	control, ok := map[string]install.Socket{"egress": install.EgressControl, "resolver": install.ResolverControl}[args[0]]
	if !ok {
		ts.Fatalf("there is no helper %s", args[0])
	}
	pid, err := on.pid(args[0])
	ts.Check(err)
	node, err := on.pid("node")
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGSTOP))
	defer syscall.Kill(pid, syscall.SIGKILL)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = runOnce(ts, args[1:]) // whatever becomes of it: it is done again when all is well
	}()
	misled(ts, pid, node, control)
	syscall.Kill(pid, syscall.SIGKILL)
	<-done
}

// misled answers what the node asks of a process, which stands still, with what is no answer. The node hangs up, and lives on.
func misled(ts *testscript.TestScript, pid, node int, control install.Socket) {
	passwd, err := os.Open("/etc/passwd")
	ts.Check(err)
	defer passwd.Close()
	conn, err := steal(pid, of(ts).on.inst.Socket(control))
	ts.Check(err)
	defer conn.Close()
	before, answered := open(node), 0
	for _, b := range append([][]byte{[]byte(`{"instances":["../../x","",null]}`), []byte(`{"error":{"kind":"not_found","message":"\u001b[2J"}}`)}, garbage()...) {
		var any map[string]any
		wait := 5 * time.Second
		if answered == 0 {
			wait = 30 * time.Second // until the command is through that gives it something to ask for
		}
		ts.Check(conn.SetDeadline(time.Now().Add(wait)))
		files, err := conn.Receive(&any)
		fdpass.CloseAll(files)
		if err != nil {
			break // it hung up, or has nothing more to ask
		}
		answered++
		// A descriptor comes along that nobody asked for.
		unix.SetNonblock(int(passwd.Fd()), false)
		raw, err := conn.Socket().SyscallConn()
		ts.Check(err)
		ts.Check(raw.Write(func(fd uintptr) bool {
			unix.Sendmsg(int(fd), b, unix.UnixRights(int(passwd.Fd()), int(passwd.Fd())), nil, unix.MSG_NOSIGNAL)
			return true
		}))
	}
	if answered == 0 {
		ts.Fatalf("the node asked nothing")
	}
	if now, err := of(ts).on.pid("node"); err != nil || now != node {
		ts.Fatalf("the node did not survive: %v", err)
	}
	if err := poll(10*time.Second, func() error {
		left, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", node))
		n := 0
		for _, f := range left {
			if to, _ := os.Readlink(f); to == "/etc/passwd" {
				n++
			}
		}
		if now := open(node); n > 0 || now > before+20 {
			return fmt.Errorf("the node kept %d descriptors of a stranger's, and has %d in all, before %d", n, now, before)
		}
		return nil
	}); err != nil {
		ts.Fatalf("%v", err)
	}
}

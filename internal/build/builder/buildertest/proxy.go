package buildertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/bulwark-paas/bulwark/internal/build/buildspec"
	"golang.org/x/sys/unix"
)

// proxy is a CONNECT proxy that listens inside a builder's network namespace and dials from ours. It checks names only:
// the real one (package egress) checks more.
type proxy struct {
	l     net.Listener
	allow []string

	mu     sync.Mutex
	denied []string
}

func newProxy(pid int, allow []string) (*proxy, error) {
	type answer struct {
		l   net.Listener
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine and takes the other network namespace with it.
		runtime.LockOSThread()
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		var a answer
		if a.err = err; err == nil {
			a.l, a.err = net.Listen("tcp", buildspec.ProxyAddr)
		}
		ch <- a
	}()
	a := <-ch
	if a.err != nil {
		return nil, fmt.Errorf("listen inside the builder: %w", a.err)
	}
	p := &proxy{l: a.l, allow: allow}
	go p.serve()
	return p, nil
}

func (p *proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		go p.handle(c)
	}
}

func (p *proxy) handle(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	host, _, _ := net.SplitHostPort(req.Host)
	if req.Method != http.MethodConnect || !slices.Contains(p.allow, host) {
		p.mu.Lock()
		p.denied = append(p.denied, req.Host)
		p.mu.Unlock()
		io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		return
	}
	up, err := net.Dial("tcp", req.Host)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer up.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(up, in)
		up.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, up)
}

func (p *proxy) refused() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.denied)
}

func (p *proxy) close() { p.l.Close() }

package kit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// target is an address to try under a name.
type target struct {
	name    string
	network string // tcp or udp
	address string
}

// parseTarget reads NAME=tcp:ADDR:PORT of --try, or NAME=ADDR:PORT of --udp. The address is a number: what a name leads
// to is a question of its own (resolve).
func parseTarget(flag, s string) (target, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || name == "" || len(name) > 200 {
		return target{}, errors.New("no name before a =")
	}
	network := "udp"
	if flag == "try" {
		if network, rest, ok = strings.Cut(rest, ":"); !ok || network != "tcp" && network != "udp" {
			return target{}, errors.New("not NAME=tcp:ADDR:PORT")
		}
	}
	a, err := netip.ParseAddrPort(rest)
	if err != nil || a.Port() == 0 {
		return target{}, errors.New("no address and port")
	}
	return target{name: name, network: network, address: a.String()}, nil
}

func parseAddress(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return "", errors.New("no IPv4 address")
	}
	return a.String(), nil
}

func parseMarker(s string) ([]byte, error) {
	const shortest, longest = 8, 4096 // a shorter one is found by chance
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) < shortest || len(b) > longest {
		return nil, fmt.Errorf("not base64 of %d to %d bytes", shortest, longest)
	}
	return b, nil
}

// atOnce bounds how many connections are tried at a time.
const atOnce = 32

// network tries to connect. A TCP target is reached when it is connected; a UDP one when it answers a byte, since a
// datagram that nobody answers says nothing; a target that is to be proven unreachable therefore answers.
func network(o *options) *Report {
	r := &Report{Facts: map[string]string{"addresses": addressesHere()}}
	r.Attempts = tryAll(o)
	if o.spoof != "" {
		for _, t := range o.tries {
			if t.network == "udp" {
				r.Attempts = append(r.Attempts, Attempt{Name: "spoof " + o.spoof + " to " + t.name}.with(spoofed(o.spoof, t)))
			}
		}
		r.Attempts = append(r.Attempts, Attempt{Name: "bind to " + o.spoof}.with(bindForeign(o.spoof)))
	}
	r.Attempts = append(r.Attempts, Attempt{Name: "send ICMP by a raw socket"}.with(did(makeSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))))
	return r
}

func (a Attempt) with(o outcome) Attempt {
	a.Reached, a.Untried, a.Detail = o.Reached, o.Untried, o.Detail
	return a
}

// tryAll tries all targets, some at a time, and reports them in their order.
func tryAll(o *options) []Attempt {
	out := make([]Attempt, len(o.tries))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, t := range o.tries {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			out[i] = Attempt{Name: t.name}.with(connect(t, o.timeout))
		})
	}
	all.Wait()
	return out
}

func connect(t target, patience time.Duration) outcome {
	c, err := net.DialTimeout(t.network, t.address, patience)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	if t.network == "tcp" {
		return reached("connected from %v", c.LocalAddr())
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{'?'}); err != nil {
		return failed(err)
	}
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err != nil {
		return failed(err)
	}
	return reached("%d bytes came back to %v", n, c.LocalAddr())
}

// failed says how a connection failed, in words that a probe can tell apart. A refusal is an answer of somebody's: the
// packet arrived, or a firewall rejects.
func failed(err error) outcome {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return refused("no answer")
	case errors.Is(err, unix.ECONNREFUSED):
		return refused("connection refused")
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return refused("no route")
	}
	return refused("%v", err)
}

// spoofed sends a datagram with another's address as its source, by a raw socket and, where there is none, by a socket that
// is bound to the address without having it. That it was sent is what is reported; whether it arrived, the receiver knows.
func spoofed(from string, to target) outcome {
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddrPort(to.address)
	if !dst.Addr().Is4() {
		return untried("only IPv4 is spoofed")
	}
	a := &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err == nil {
		defer unix.Close(fd)
		return did(unix.Sendto(fd, datagram(src, a.Addr, dst.Port()), 0, a))
	}
	raw := err
	fd, err = freeBound(src)
	if err != nil {
		return refused("raw: %v; bound: %v", raw, err)
	}
	defer unix.Close(fd)
	return did(unix.Sendto(fd, []byte("bulwark-kit"), 0, a))
}

// datagram is an IPv4 packet with a UDP datagram. The kernel fills in the header's checksum, and 0 is no UDP checksum.
func datagram(src, dst [4]byte, port uint16) []byte {
	body := []byte("bulwark-kit")
	n := 28 + len(body)
	b := make([]byte, 0, n)
	b = append(b, 0x45, 0, byte(n>>8), byte(n), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	b = append(append(b, src[:]...), dst[:]...)
	b = append(b, 0xb1, 0x1b, byte(port>>8), byte(port), 0, byte(8+len(body)), 0, 0)
	return append(b, body...)
}

// bindForeign binds a socket to an address that the instance does not have.
func bindForeign(address string) outcome {
	fd, err := freeBound(netip.MustParseAddr(address).As4())
	return closed(fd, err)
}

func freeBound(src [4]byte) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// With CAP_NET_ADMIN or CAP_NET_RAW; without, only addresses that are here can be bound to.
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: src}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func addressesHere() string {
	as, err := net.InterfaceAddrs()
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// resolve asks the instance's resolver for names.
func resolve(o *options) *Report {
	conf, _ := os.ReadFile("/etc/resolv.conf")
	r := &Report{Facts: map[string]string{"resolv.conf": string(conf[:min(len(conf), 1024)])}}
	for _, name := range o.names {
		as, err := net.LookupHost(name)
		slices.Sort(as)
		out := reached("%s", strings.Join(as, " "))
		if err != nil {
			out = refused("%v", err)
		}
		r.Attempts = append(r.Attempts, Attempt{Name: name}.with(out))
	}
	return r
}

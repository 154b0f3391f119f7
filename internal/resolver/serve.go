package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	maxQuery    = 4096             // bytes; a true one has some hundreds
	tcpIdle     = 10 * time.Second // between two queries of a connection
	maxQueryTCP = 100              // of one connection
)

func (r *resolver) serveUDP(ctx context.Context, s *sockets, udp *net.UDPConn) {
	buf := make([]byte, maxQuery)
	for {
		n, session, err := dns.ReadFromSessionUDP(udp, buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !pause(ctx) {
				return
			}
			continue
		}
		src := sourceOf(session.RemoteAddr())
		v, done := r.limiter.begin(src, time.Now())
		if v == drop {
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		s.work.Go(func() {
			defer done()
			if b := r.handle(ctx, src, query, v, true); b != nil {
				_, _ = dns.WriteToSessionUDP(udp, b, session) // what cannot be sent is asked again
			}
		})
	}
}

func (r *resolver) serveTCP(ctx context.Context, s *sockets, ln *net.TCPListener) {
	for {
		conn, err := ln.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !pause(ctx) {
				return
			}
			continue
		}
		src := sourceOf(conn.RemoteAddr())
		done := r.limiter.connect(src)
		if done == nil || !s.track(conn) {
			conn.Close()
			if done != nil {
				done()
			}
			continue
		}
		s.work.Go(func() {
			defer done()
			defer s.forget(conn)
			r.converse(ctx, src, conn)
		})
	}
}

// converse answers the queries of one TCP connection, one after the other.
func (r *resolver) converse(ctx context.Context, src netip.Addr, conn net.Conn) {
	for range maxQueryTCP {
		conn.SetDeadline(time.Now().Add(tcpIdle))
		var head [2]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint16(head[:])
		if size > maxQuery {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		v, done := r.limiter.begin(src, time.Now())
		if v == drop {
			return
		}
		b := r.handle(ctx, src, query, v, false)
		done()
		if b == nil {
			return
		}
		conn.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

// handle turns a message into the bytes of its answer; nil for none. A fault of ours in the middle costs the one who
// asked an answer, and nobody else.
func (r *resolver) handle(ctx context.Context, src netip.Addr, query []byte, v verdict, udp bool) (out []byte) {
	defer func() {
		if fault := recover(); fault != nil {
			r.log.Error("resolver: a fault while answering", "source", src, "fault", fmt.Sprint(fault))
			out = nil
		}
	}()
	req := new(dns.Msg)
	err := req.Unpack(query)
	if len(query) < 12 || req.Response {
		return nil // an answer to an answer is how two servers talk for ever
	}
	var m *dns.Msg
	switch {
	case err != nil:
		m = reply(&dns.Msg{MsgHdr: req.MsgHdr}, dns.RcodeFormatError)
	case v == refuse:
		m = reply(req, dns.RcodeRefused)
	default:
		m = r.answer(ctx, src, req)
	}
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = min(ednsSize, max(size, int(opt.UDPSize())))
		}
	}
	m.Truncate(size)
	if out, err = m.Pack(); err != nil || len(out) > size {
		out, _ = reply(req, dns.RcodeServerFailure).Pack()
	}
	return out
}

func sourceOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return plainAddr(a.AddrPort().Addr())
	case *net.TCPAddr:
		return plainAddr(a.AddrPort().Addr())
	}
	return netip.Addr{}
}

// pause waits before a socket that failed is tried again: descriptors come back when connections end. False when the
// sockets are to be closed.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

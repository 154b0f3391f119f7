package gitssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
)

const (
	handshakeTime = 10 * time.Second // from the first byte to a known person
	execTime      = 30 * time.Second // from a channel to its command
	idleTime      = 60 * time.Second // of a connection without a channel
	aliveEvery    = 15 * time.Second
	aliveWithin   = 45 * time.Second
	askedEvery    = 3 * time.Second // whether the key still is the person's
	maxChannels   = 4               // at once, of a connection that several gits share
	allChannels   = 16              // in a connection's life: what a client never closes is held until the end
	maxRequests   = 32
)

// client is who is at the other end.
type client struct {
	person bulwark.PersonID
	addr   string
	// hangUp closes the whole connection. Closing a channel is a request to the client, who may ignore it and leave a
	// write waiting for ever.
	hangUp func()
}

// personKey and signedKey are the keys in ssh.Permissions under which authentication leaves the person, and the public key that signed.
type (
	personKey struct{}
	signedKey struct{}
)

// serveConn authenticates one connection and serves its channels. It owns nc.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	addr := addressKey(nc.RemoteAddr())
	leave, fresh := s.conns.enter(addr), s.fresh.enter(addr)
	if leave == nil || fresh == nil {
		if leave != nil {
			leave()
		}
		if fresh != nil {
			fresh()
		}
		s.log.Warn("git: too many connections", "addr", addr)
		return
	}
	defer leave()
	defer fresh()
	sc, chans, reqs, err := s.handshake(ctx, nc)
	if err != nil {
		s.log.Debug("git: no one signed in", "addr", addr, "error", err)
		return
	}
	fresh()
	defer sc.Close()
	person, _ := sc.Permissions.ExtraData[personKey{}].(bulwark.PersonID)
	go ssh.DiscardRequests(reqs) // forwarding among them: refused
	go keepAlive(sc)
	if key, ok := sc.Permissions.ExtraData[signedKey{}].(ssh.PublicKey); ok {
		go s.watch(ctx, sc, key, person, addr)
	}
	s.serveChannels(ctx, client{person: person, addr: addr, hangUp: func() { nc.Close() }}, chans)
}

func (s *Server) handshake(ctx context.Context, nc net.Conn) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := nc.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, nil, nil, err
	}
	sc, chans, reqs, err := ssh.NewServerConn(nc, s.sshConfig(ctx))
	if err != nil {
		return nil, nil, nil, err
	}
	return sc, chans, reqs, nc.SetDeadline(time.Time{})
}

// sshConfig names every algorithm, so that an update of the library adds none that nobody looked at. What is not here:
// SHA-1, CBC, 2048-bit groups, MACs over the plaintext.
func (s *Server) sshConfig(ctx context.Context) *ssh.ServerConfig {
	cfg := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519,
				ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521, ssh.KeyExchangeDH16SHA512},
			Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM,
				ssh.CipherAES256CTR, ssh.CipherAES128CTR},
			MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256,
			ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
		MaxAuthTries:  3,
		ServerVersion: "SSH-2.0-Bulwark",
		// The library calls this again if the key that signs is not the one asked about last, so the person it leaves is
		// the one whose key signed.
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			person, err := s.person(ctx, key)
			if err != nil {
				return nil, err
			}
			return &ssh.Permissions{ExtraData: map[any]any{personKey{}: person, signedKey{}: key}}, nil
		},
	}
	for _, k := range s.cfg.HostKeys {
		cfg.AddHostKey(k)
	}
	return cfg
}

func (s *Server) person(ctx context.Context, key ssh.PublicKey) (bulwark.PersonID, error) {
	if err := strongKey(key); err != nil {
		return "", err
	}
	person, err := s.cfg.Gate.Person(ctx, key)
	if err == nil && person == "" {
		err = errors.New("gitssh: the gate named nobody")
	}
	if err != nil && bulwark.KindOf(err) != bulwark.KindUnauthorized {
		s.log.Error("git: cannot say whose key it is", "error", err)
	}
	return person, err
}

// watch closes a connection whose key was taken away, whatever goes on over it; a push that was accepted goes on without it. Who cannot be
// asked just now takes nothing away.
func (s *Server) watch(ctx context.Context, sc *ssh.ServerConn, key ssh.PublicKey, person bulwark.PersonID, addr string) {
	gone := ended(sc)
	for {
		select {
		case <-gone:
			return
		case <-time.After(askedEvery):
		}
		now, err := s.cfg.Gate.Person(ctx, key)
		if bulwark.KindOf(err) == bulwark.KindUnauthorized || err == nil && now != person {
			s.log.Info("git: the key was taken away, and the connection is cut", "addr", addr, "person", person)
			sc.Close()
			return
		}
	}
}

// ended is closed when the connection is.
func ended(sc *ssh.ServerConn) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		_ = sc.Wait()
		close(gone)
	}()
	return gone
}

// keepAlive closes a connection whose other end does not answer: a laptop that was shut keeps no push open.
func keepAlive(sc *ssh.ServerConn) {
	gone := ended(sc)
	for {
		select {
		case <-gone:
			return
		case <-time.After(aliveEvery):
		}
		late := time.AfterFunc(aliveWithin, func() { sc.Close() })
		_, _, err := sc.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			sc.Close()
			return
		}
	}
}

// serveChannels serves sessions, and refuses every other kind of channel, until the connection ends.
func (s *Server) serveChannels(ctx context.Context, c client, chans <-chan ssh.NewChannel) {
	idle := time.AfterFunc(idleTime, c.hangUp)
	defer idle.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex // guards open and idle
	open, all := 0, 0
	for nch := range chans {
		if all++; all > allChannels {
			c.hangUp()
		}
		if nch.ChannelType() != "session" {
			nch.Reject(ssh.Prohibited, "only git is served here")
			continue
		}
		mu.Lock()
		full := open >= maxChannels
		if !full {
			open++
			idle.Stop()
		}
		mu.Unlock()
		if full {
			nch.Reject(ssh.ResourceShortage, "too many sessions on one connection")
			continue
		}
		wg.Go(func() {
			s.serveChannel(ctx, c, nch)
			mu.Lock()
			defer mu.Unlock()
			if open--; open == 0 {
				idle.Reset(idleTime)
			}
		})
	}
	s.log.Debug("git: connection ended", "addr", c.addr)
}

// serveChannel answers a session's requests until one is a command, runs that, and closes the session.
func (s *Server) serveChannel(ctx context.Context, c client, nch ssh.NewChannel) {
	ch, reqs, err := nch.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	late := time.AfterFunc(execTime, c.hangUp)
	defer late.Stop()
	count := 0
	for req := range reqs {
		if count++; count > maxRequests {
			return
		}
		var code uint32
		switch req.Type {
		case "exec":
			late.Stop()
			var line struct{ Command string }
			if err := ssh.Unmarshal(req.Payload, &line); err != nil {
				req.Reply(false, nil)
				return
			}
			req.Reply(true, nil)
			go ssh.DiscardRequests(reqs)
			code = s.run(ctx, c, ch, line.Command)
		case "shell":
			late.Stop()
			req.Reply(true, nil)
			go ssh.DiscardRequests(reqs)
			go func() { _, _ = io.Copy(io.Discard, ch) }()
			c.say(ch, fmt.Sprintf("Hi, you are signed in as %s. Bulwark gives no shell; push with git.\n", c.person))
			code = 1
		default: // env, pty-req, x11-req, auth-agent-req, subsystem, signal, …
			req.Reply(false, nil)
			continue
		}
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code}))
		return
	}
}

// refuse tells the user on the session's own error stream, before or after git.
func (c client) refuse(ch ssh.Channel, err error) uint32 {
	c.say(ch, refusal(err))
	return 1
}

func (c client) say(ch ssh.Channel, text string) {
	defer time.AfterFunc(closeTime, c.hangUp).Stop()
	io.WriteString(ch.Stderr(), text)
}

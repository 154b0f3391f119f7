package egress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

const (
	recordHandshake = 22     // first byte of a TLS record that begins a handshake, RFC 8446 5.1
	extensionECH    = 0xfe0d // encrypted_client_hello, RFC 9849
	maxHello        = 96 << 10
)

// hello is what a TLS client says in clear before it gets an answer.
type hello struct {
	name   string // server name; empty if there is none
	hidden bool   // it carries an encrypted hello, in which another name may be
}

var (
	errHello  = errors.New("the hello was read")
	errSilent = errors.New("nothing is said to a client whose hello is only read")
)

// readHello reads a ClientHello from conn and returns it with all bytes that were read. Go's own TLS server does the
// reading, so we have no parser of ours to get wrong; it is stopped before it would answer, and its one attempt to send
// an alert goes nowhere.
func readHello(conn net.Conn) (*hello, []byte, error) {
	var seen *hello
	rec := &recorder{Conn: conn}
	// No certificate and no version is ever used: the handshake ends inside the callback.
	err := tls.Server(rec, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(chi *tls.ClientHelloInfo) (*tls.Config, error) {
			seen = &hello{name: chi.ServerName, hidden: slices.Contains(chi.Extensions, extensionECH)}
			return nil, errHello
		},
	}).Handshake()
	if seen == nil {
		return nil, rec.said.Bytes(), err
	}
	return seen, rec.said.Bytes(), nil
}

// recorder keeps what is read, lets nothing be written and does not close.
type recorder struct {
	net.Conn
	said bytes.Buffer
}

// Read implements [io.Reader].
func (r *recorder) Read(p []byte) (int, error) {
	if r.said.Len() >= maxHello {
		return 0, fmt.Errorf("a hello of more than %d bytes", maxHello)
	}
	n, err := r.Conn.Read(p[:min(len(p), maxHello-r.said.Len())])
	r.said.Write(p[:n])
	return n, err
}

// Write implements [io.Writer].
func (r *recorder) Write([]byte) (int, error) { return 0, errSilent }

// Close implements [io.Closer].
func (r *recorder) Close() error { return nil }

// SetDeadline is the tunnel's to do.
func (r *recorder) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline is the tunnel's to do.
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// inspect reads the handshake with which a builder begins and holds it against the place that was asked for. It returns
// the bytes to be passed on.
func inspect(from *replayed, to place) ([]byte, *refusal) {
	from.SetReadDeadline(time.Now().Add(helloTimeout))
	h, said, err := readHello(from)
	from.SetReadDeadline(time.Time{})
	no := judge(h, said, err, to)
	if no == nil {
		return said, nil
	}
	if no.verdict == Refused {
		// A plain fatal alert, access_denied (RFC 8446 6.2): the client's message then says that it was refused rather
		// than that the line broke.
		from.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(from, "\x15\x03\x03\x00\x02\x02\x31")
		from.CloseWrite()
	}
	return nil, no
}

func judge(h *hello, said []byte, err error, to place) *refusal {
	switch {
	case h == nil && len(said) == 0:
		return &refusal{verdict: Failed, reason: ClientGone, message: "Nothing was said in the tunnel.", cause: err}
	case h == nil:
		return &refusal{verdict: Refused, reason: NotTLS, message: fmt.Sprintf("What was sent to %s is no TLS handshake.", to), cause: err}
	case h.hidden:
		return &refusal{verdict: Refused, reason: HiddenName, message: fmt.Sprintf("The handshake with %s hides a name.", to)}
	case to.name == "" && h.name == "":
		return nil // an address has no server name (RFC 6066), and the address itself is on the list
	case h.name == "":
		return &refusal{verdict: Refused, reason: NoServerName, message: fmt.Sprintf("The handshake with %s names no host.", to)}
	}
	if name, err := netpolicy.ParseHost(h.name); err != nil || to.name == "" || name != to.name {
		return &refusal{verdict: Refused, reason: OtherName, message: fmt.Sprintf("The handshake with %s names %+q.", to, h.name)}
	}
	return nil
}

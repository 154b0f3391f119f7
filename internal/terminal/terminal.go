// Package terminal is the stream between a person's machine and a one-off instance on a node: what is typed, what is
// printed, the size of the window, the exit code. The server and whoever else relays the bytes can delay them and cut
// them off, and see how many there are and when; they can neither read nor alter, reorder, repeat or forge them, and a
// stream that was cut off is told from one that ended.
//
// Whoever owns the person's machine or the node reads the stream; nobody else does, not even with the device key or the
// node's key of a later day, since the keys of a stream are made for it alone and forgotten with it. The key
// encapsulation is hybrid, as in package seal.
//
// # Specification, version 1
//
// lp(x) is the length of x as 4 bytes and x; ‖ puts byte strings together; all numbers are big-endian.
//
// Handshake. The person's machine (the client) makes an HPKE key pair (RFC 9180; KEM ML-KEM-768 with X25519, KDF
// HKDF-SHA256, export only) and names its public key as the recipient of a statement app.run, which the device key signs.
// Let S be the statement's envelope as it was sent, and N the fingerprint of the node's key. The node accepts S once,
// encapsulates to the recipient with
//
//	info = "bulwark terminal v1" ‖ lp(N) ‖ lp(Digest(S))     where Digest is "sha256:" and hex digits
//
// and sends the welcome W: a DSSE envelope of type [WelcomePayloadType], signed with the node's key, of a [Welcome] that
// carries Digest(S), the encapsulated key, the app, the release and the instance. On the wire it is lp(W). The client
// verifies it with the node's key, which it pinned at sign-in, and refuses it unless it names N and Digest(S). Both then export
//
//	key of the client's records = Export("bulwark terminal v1 client" ‖ SHA-256(W), 32)
//	key of the node's records   = Export("bulwark terminal v1 node"   ‖ SHA-256(W), 32)
//
// So the client knows that it speaks to the node, by the node's signature; the node, that it speaks to who signed S, since
// only the maker of the recipient key can export the keys. Nothing starts before the client's first record was opened: a
// statement that was stolen or kept back starts nothing.
//
// Records. Each direction is a sequence of records, numbered from 0:
//
//	record = length (2 bytes, of the ciphertext) ‖ ciphertext
//	ciphertext = ChaCha20-Poly1305(key, nonce = 4 zero bytes ‖ number (8 bytes), additional data = the length's 2 bytes, frame)
//	frame = type (1 byte) ‖ payload (at most 32768 bytes)
//
// A record that does not open, a frame that is not well formed, of an unknown type, of the other direction's or out of
// place ends the stream as an error. Each direction ends with a frame close; an end without one is a cut.
//
//	type          from    payload
//	 1 start      client  columns (2), rows (2), name of the terminal's type; the first frame, and only the first
//	 2 stdin      client  1 or more bytes
//	 3 stdin end  client  none; no stdin follows
//	 4 window     client  columns (2), rows (2)
//	 5 signal     client  number (1): 1 HUP, 2 INT, 3 QUIT, 10 USR1, 12 USR2, 15 TERM
//	 6 alive      client  none; at least every [AliveEvery]: a node gives a silent client up after [SilentFor]
//	15 close      both    none; from a client that has seen no exit it asks to end the command
//	16 stdout     node    1 or more bytes
//	17 stderr     node    1 or more bytes; none if there is a terminal
//	18 taken      node    count (4) of bytes of stdin that the command took: a client has at most [StdinWindow] not yet taken
//	19 exit       node    exit code (1); only close follows
//	20 failure    node    a [bulwark.Error] in JSON: the command was not started or was lost; only close follows
package terminal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// The bounds of the protocol.
const (
	MaxPayload  = 32 << 10
	StdinWindow = 256 << 10
	AliveEvery  = 15 * time.Second
	SilentFor   = 2 * time.Minute
)

// Type is what a frame is.
type Type byte

// The types.
const (
	TypeStart    Type = 1
	TypeStdin    Type = 2
	TypeStdinEnd Type = 3
	TypeWindow   Type = 4
	TypeSignal   Type = 5
	TypeAlive    Type = 6
	TypeClose    Type = 15
	TypeStdout   Type = 16
	TypeStderr   Type = 17
	TypeTaken    Type = 18
	TypeExit     Type = 19
	TypeFailure  Type = 20
)

// Frame is one message. Data is good until the next one is received.
type Frame struct {
	Type Type
	Data []byte
}

// Window is the size of a terminal in characters; zero means unknown.
type Window struct {
	Columns, Rows uint16
}

// Start is what a client says of its terminal.
type Start struct {
	Window
	Term string // the type of the terminal, as TERM names it; empty without a terminal
}

// maxTerm bounds the name of a terminal's type.
const maxTerm = 64

func (w Window) data() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, w.Columns), w.Rows)
}

// Frame returns s as a frame.
func (s Start) Frame() Frame { return Frame{TypeStart, append(s.data(), s.Term...)} }

// Frame returns w as a frame.
func (w Window) Frame() Frame { return Frame{TypeWindow, w.data()} }

// Window returns the size that a frame of type start or window carries.
func (f Frame) Window() Window {
	return Window{Columns: binary.BigEndian.Uint16(f.Data), Rows: binary.BigEndian.Uint16(f.Data[2:])}
}

// Start returns what a frame of type start carries.
func (f Frame) Start() Start { return Start{Window: f.Window(), Term: string(f.Data[4:])} }

// Taken returns the count that a frame of type taken carries.
func (f Frame) Taken() int { return int(binary.BigEndian.Uint32(f.Data)) }

func taken(n int) Frame {
	return Frame{TypeTaken, binary.BigEndian.AppendUint32(nil, uint32(n))}
}

// failure makes a frame of what a person may be told of err.
func failure(err error) Frame {
	e := &bulwark.Error{Kind: bulwark.KindInternal, Message: "The command was not started.", Hint: "See the node's log."}
	if known, ok := errors.AsType[*bulwark.Error](err); ok && known.Kind != bulwark.KindInternal {
		e = known
	}
	b, jerr := json.Marshal(e)
	if jerr != nil || len(b) > MaxPayload {
		b = []byte(`{"kind":"internal","message":"The command was not started."}`)
	}
	return Frame{TypeFailure, b}
}

// Failure returns the error that a frame of type failure carries.
func (f Frame) Failure() error {
	var e bulwark.Error
	if err := json.Unmarshal(f.Data, &e); err != nil || e.Kind == "" {
		return malformed("a failure that cannot be read")
	}
	return &e
}

// signals are those that a client may send.
var signals = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM}

// check tells whether a frame is well formed, whoever sent it.
func (f Frame) check() error {
	n := len(f.Data)
	ok := false
	switch f.Type {
	case TypeStart:
		ok = n >= 4 && n <= 4+maxTerm && termName(f.Data[4:])
	case TypeStdin, TypeStdout, TypeStderr, TypeFailure:
		ok = n > 0
	case TypeStdinEnd, TypeAlive, TypeClose:
		ok = n == 0
	case TypeWindow:
		ok = n == 4
	case TypeSignal:
		ok = n == 1 && slices.Contains(signals, syscall.Signal(f.Data[0]))
	case TypeTaken:
		ok = n == 4 && f.Taken() > 0 && f.Taken() <= StdinWindow
	case TypeExit:
		ok = n == 1
	}
	if !ok || n > MaxPayload {
		return malformed(fmt.Sprintf("a frame of type %d with %d bytes", f.Type, n))
	}
	return nil
}

// termName tells whether b is fit to be the value of TERM, which programs make file names of.
func termName(b []byte) bool {
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '.' || c == '+' || c == '_')) {
			return false
		}
	}
	return true
}

// TermName returns the name of a terminal's type if it may be sent, else "".
func TermName(s string) string {
	if len(s) > maxTerm || !termName([]byte(s)) {
		return ""
	}
	return s
}

func malformed(what string) error {
	return bulwark.Fail(bulwark.KindInvalid, "The other end of the terminal does not keep to the protocol: it sent "+what+".",
		"Use a bulwark command of the same version as the server.", nil)
}

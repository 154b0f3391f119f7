// Package hook is the pre-receive hook of the git server, and the language that it speaks with the server. It promises
// to decide nothing: it hands the server what git told it, shows the server's lines to the user, and ends with the exit
// code that the server says; without an answer, it refuses the push. It uses the standard library alone, and little of
// it, because it is started once in every push.
//
// Whoever owns it, or reaches the server's socket as the server's user, can do no more than the pushes under way could:
// every conversation needs the token of one push, which is good once, and names no path that the server would believe.
//
// The conversation. The hook writes lines, each ended by "\n", and then closes its half:
//
//	bulwark-hook/1
//	<token>
//	NAME=value          for each name in Forwarded that git set
//	                    an empty line
//	<old> <new> <ref>   what git wrote to the hook's standard input
//
// The server answers with frames: one byte of kind, four bytes of length (big-endian), and that many bytes. Kind 'o' is
// text for the user, kind 'x' is the end, with the exit code as its one byte.
package hook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// The environment variables by which the server tells the hook where it is and for which push it speaks.
const (
	EnvSocket = "BULWARK_HOOK"
	EnvToken  = "BULWARK_HOOK_TOKEN"
)

// Forwarded returns the names of git's variables that the hook hands on.
func Forwarded() []string {
	return []string{
		"GIT_QUARANTINE_PATH", "GIT_PUSH_CERT", "GIT_PUSH_CERT_NONCE", "GIT_PUSH_CERT_NONCE_STATUS",
		"GIT_PUSH_CERT_NONCE_SLOP", "GIT_PUSH_OPTION_COUNT",
	}
}

const (
	greeting    = "bulwark-hook/1"
	maxRequest  = 256 << 10 // about a thousand refs; a push carries one
	maxFrame    = 64 << 10
	dialTimeout = 10 * time.Second
	kindText    = 'o'
	kindExit    = 'x'
)

// Request is what the hook tells the server.
type Request struct {
	Token string
	Env   map[string]string
	Lines []string // "<old> <new> <ref>"; a push of too many refs is cut, but keeps more than one
}

// Run is the hook: it ends with the exit code of the process.
func Run(getenv func(string) string, stdin io.Reader, stderr io.Writer) int {
	code, err := converse(getenv, stdin, stderr)
	if err != nil {
		io.WriteString(stderr, " !     Bulwark could not be asked about this push, so it was not accepted. Push again in a moment.\n")
		return 1
	}
	return code
}

func converse(getenv func(string) string, stdin io.Reader, stderr io.Writer) (int, error) {
	conn, err := net.DialTimeout("unix", getenv(EnvSocket), dialTimeout)
	if err != nil {
		return 1, err
	}
	defer conn.Close()
	if err := send(conn, getenv, stdin); err != nil {
		return 1, err
	}
	return relay(conn, stderr)
}

func send(conn net.Conn, getenv func(string) string, stdin io.Reader) error {
	var b bytes.Buffer
	b.WriteString(greeting + "\n" + getenv(EnvToken) + "\n")
	for _, name := range Forwarded() {
		if v := getenv(name); v != "" && !strings.ContainsAny(v, "\n\x00") {
			b.WriteString(name + "=" + v + "\n")
		}
	}
	b.WriteByte('\n')
	if _, err := io.Copy(&b, io.LimitReader(stdin, int64(maxRequest-b.Len()))); err != nil {
		return err
	}
	if b.Len() == maxRequest { // cut: git may still be writing, and a half line must not look like a whole one
		_, _ = io.Copy(io.Discard, stdin)
		b.Truncate(bytes.LastIndexByte(b.Bytes(), '\n') + 1)
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		return err
	}
	return conn.(*net.UnixConn).CloseWrite()
}

// relay shows the server's lines until the server says how it ends.
func relay(conn io.Reader, stderr io.Writer) (int, error) {
	var head [5]byte
	buf := make([]byte, maxFrame)
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return 1, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxFrame {
			return 1, errors.New("hook: a frame is too long")
		}
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return 1, err
		}
		switch {
		case head[0] == kindText:
			if _, err := stderr.Write(buf[:n]); err != nil {
				return 1, err
			}
		case head[0] == kindExit && n == 1:
			return int(buf[0]), nil
		default:
			return 1, errors.New("hook: a frame of unknown kind")
		}
	}
}

// ReadRequest reads what a hook sends, to the end.
func ReadRequest(r io.Reader) (Request, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRequest+1))
	if err != nil {
		return Request{}, err
	}
	if len(b) > maxRequest || bytes.IndexByte(b, 0) >= 0 {
		return Request{}, errors.New("hook: the request is too long or has a NUL")
	}
	head, lines, ok := strings.Cut(string(b), "\n\n")
	fields := strings.Split(head, "\n")
	if !ok || len(fields) < 2 || fields[0] != greeting || fields[1] == "" {
		return Request{}, errors.New("hook: the request does not begin as one")
	}
	req := Request{Token: fields[1], Env: map[string]string{}}
	for _, f := range fields[2:] {
		name, value, ok := strings.Cut(f, "=")
		if _, twice := req.Env[name]; !ok || twice {
			return Request{}, errors.New("hook: the request has a bad variable")
		}
		req.Env[name] = value
	}
	if lines == "" {
		return req, nil
	}
	whole, ok := strings.CutSuffix(lines, "\n")
	if !ok {
		return Request{}, errors.New("hook: the request ends within a line")
	}
	req.Lines = strings.Split(whole, "\n")
	return req, nil
}

// Text returns the frames that show b to the user.
func Text(b []byte) []byte {
	out := make([]byte, 0, len(b)+5*(len(b)/maxFrame+1))
	for len(b) > 0 {
		n := min(len(b), maxFrame)
		out = frame(out, kindText, b[:n])
		b = b[n:]
	}
	return out
}

// Exit returns the frame that ends the hook.
func Exit(code byte) []byte { return frame(nil, kindExit, []byte{code}) }

func frame(out []byte, kind byte, b []byte) []byte {
	out = append(out, kind)
	out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
	return append(out, b...)
}

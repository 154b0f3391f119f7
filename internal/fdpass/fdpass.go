// Package fdpass moves open descriptors between the processes of one machine: JSON messages with files over a unix
// SOCK_SEQPACKET socket, the protocol of the supervisor's descriptor store, and sealed memory.
//
// It promises that a message arrives whole or not at all and never larger than MaxMessage, that every received
// descriptor is closed on exec, and that no descriptor is left open when an error is returned. Who is on the other
// side is told by the kernel ([Peer]), never by the message. It opens nothing by a name that came in a message; an
// attacker who owned it would own what the process was handed and no more.
package fdpass

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

const (
	// MaxMessage is the size of the largest message in bytes. It stays below the default send buffer of a unix socket,
	// since a packet is sent whole or refused.
	MaxMessage = 128 << 10
	// MaxFiles is the largest number of descriptors with one message.
	MaxFiles = 8
)

// Conn sends and receives messages. Send may be called by several goroutines; Receive by one at a time.
type Conn struct {
	sock *net.UnixConn
	in   []byte
	oob  []byte
	out  sync.Mutex // orders messages, so that what one goroutine sent first arrives first
}

// New makes a Conn of a unixpacket socket, which it then owns.
func New(sock *net.UnixConn) *Conn { return &Conn{sock: sock} }

// Dial connects to the unixpacket socket at path.
func Dial(path string) (*Conn, error) {
	sock, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return New(sock), nil
}

// Pair returns two connected Conns, for a child process or a test.
func Pair() (*Conn, *Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	a, errA := fromFD(fds[0])
	b, errB := fromFD(fds[1])
	if err := errors.Join(errA, errB); err != nil {
		return nil, nil, err
	}
	return a, b, nil
}

func fromFD(fd int) (*Conn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return New(c.(*net.UnixConn)), nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.sock.Close() }

// SetDeadline bounds Send and Receive, as net.Conn does.
func (c *Conn) SetDeadline(t time.Time) error { return c.sock.SetDeadline(t) }

// Socket returns the socket beneath, for [Peer].
func (c *Conn) Socket() *net.UnixConn { return c.sock }

// Send sends v as JSON with files, which stay the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	fds := make([]int, 0, MaxFiles)
	for _, f := range files {
		// SyscallConn, not Fd: Fd would set the open file description to blocking, for the receiver too.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	err := c.SendFDs(v, fds...)
	runtime.KeepAlive(files)
	return err
}

// SendFDs is Send for bare descriptors; they stay the caller's.
func (c *Conn) SendFDs(v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > MaxMessage || len(fds) > MaxFiles {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("A message of %d bytes and %d descriptors is too large.", len(b), len(fds)),
			fmt.Sprintf("At most %d bytes and %d descriptors fit.", MaxMessage, MaxFiles), nil)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.out.Lock()
	defer c.out.Unlock()
	n, _, err := c.sock.WriteMsgUnix(b, oob, nil)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// Receive waits for the next message and decodes it into v. The files are the caller's to close. io.EOF means that
// the other side is gone; any other error leaves no descriptor open, and the connection should be closed.
func (c *Conn) Receive(v any) ([]*os.File, error) {
	if c.in == nil {
		c.in = make([]byte, MaxMessage)
		c.oob = make([]byte, unix.CmsgSpace(4*MaxFiles))
	}
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(c.in, c.oob)
	files := rights(c.oob[:max(oobn, 0)])
	switch {
	case errors.Is(err, io.EOF):
		err = io.EOF // without net's wrapping, as every reader expects
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = bulwark.Failf(bulwark.KindTooLarge, "A message was larger than %d bytes or carried more than %d descriptors.", MaxMessage, MaxFiles)
	default:
		err = Decode(c.in[:n], v)
	}
	if err != nil {
		CloseAll(files)
		return nil, err
	}
	return files, nil
}

// Decode reads one JSON value into v and refuses unknown fields and anything behind the value.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return malformed(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return malformed(errors.New("something follows the value"))
	}
	return nil
}

func malformed(cause error) error {
	if e, ok := errors.AsType[*bulwark.Error](cause); ok {
		return e
	}
	return bulwark.Fail(bulwark.KindInvalid, "The message is not well formed.", "", cause)
}

// rights wraps every descriptor in the control messages, whatever else is wrong with them: the kernel has installed
// them already, so forgetting one would leak it.
func rights(oob []byte) []*os.File {
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files
}

// CloseAll closes files.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Peer returns who made the connection, as the kernel noted it at that moment.
func Peer(conn syscall.Conn) (pid int32, uid, gid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return 0, 0, 0, cerr
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return cred.Pid, cred.Uid, cred.Gid, nil
}

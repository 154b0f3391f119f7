package fdpass

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Notifier speaks systemd's notification protocol (sd_notify) to whoever supervises the process. The socket is made
// when the Notifier is, so it can be used after socket(2) was given up. A nil Notifier does nothing.
type Notifier struct{ conn *net.UnixConn }

// NewNotifier connects to the value of NOTIFY_SOCKET. For the empty string it returns nil: nobody listens.
func NewNotifier(address string) (*Notifier, error) {
	if address == "" {
		return nil, nil
	}
	if address[0] != '/' && address[0] != '@' {
		return nil, bulwark.Invalid("The notification socket is neither a path nor an abstract name.", "Leave NOTIFY_SOCKET as the supervisor set it.")
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the notification socket: %w", err)
	}
	return &Notifier{conn: conn}, nil
}

// Close closes the socket.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

// Notify sends one or more assignments such as "READY=1", separated by newlines.
func (n *Notifier) Notify(state string) error {
	if n == nil {
		return nil
	}
	_, err := n.conn.Write([]byte(state))
	return err
}

// NotifyStore hands f to the supervisor, to be given back under name after a restart. f stays the caller's.
func (n *Notifier) NotifyStore(name string, f *os.File) error {
	if n == nil {
		return nil
	}
	if err := validName(name); err != nil {
		return err
	}
	store, err := f.SyscallConn()
	if err != nil {
		return err
	}
	socket, err := n.conn.SyscallConn()
	if err != nil {
		return err
	}
	// Go's WriteMsgUnix refuses a datagram socket that is connected, so the packet is sent by hand.
	var sendErr error
	err = store.Control(func(fd uintptr) {
		werr := socket.Write(func(to uintptr) bool {
			sendErr = unix.Sendmsg(int(to), []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(int(fd)), nil, 0)
			return sendErr != unix.EAGAIN
		})
		if werr != nil {
			sendErr = werr
		}
	})
	if err != nil {
		return err
	}
	return sendErr
}

// NotifyRemove has the supervisor forget what it holds under name.
func (n *Notifier) NotifyRemove(name string) error {
	if n == nil {
		return nil
	}
	if err := validName(name); err != nil {
		return err
	}
	return n.Notify("FDSTOREREMOVE=1\nFDNAME=" + name)
}

func validName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, bad) {
		return bulwark.Failf(bulwark.KindInternal, "%q cannot name a stored descriptor.", name)
	}
	return nil
}

// firstFD is where the descriptors of LISTEN_FDS begin, by systemd's protocol.
const firstFD = 3

// Listeners returns the descriptors that the supervisor left open for this process, by name. env is os.Environ();
// variables that are meant for another process (LISTEN_PID) yield nothing. A name may stand for several descriptors,
// and one without a name is called "unknown", as systemd does.
func Listeners(env []string) (map[string][]*os.File, error) {
	vars := map[string]string{}
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "LISTEN_") {
			vars[k] = v
		}
	}
	if pid := vars["LISTEN_PID"]; pid != "" && pid != strconv.Itoa(os.Getpid()) || vars["LISTEN_FDS"] == "" {
		return nil, nil
	}
	count, err := strconv.Atoi(vars["LISTEN_FDS"])
	if err != nil || count < 0 || count > 1024 {
		return nil, bulwark.Invalid("LISTEN_FDS is not a number between 0 and 1024.", "Leave it as the supervisor set it.")
	}
	var names []string
	if vars["LISTEN_FDNAMES"] != "" {
		names = strings.Split(vars["LISTEN_FDNAMES"], ":")
	}
	// All are looked at before any is taken: an os.File closes its descriptor when it is collected, and a number that
	// was announced wrongly may be one that Go's runtime uses.
	for i := range count {
		if _, err := unix.FcntlInt(uintptr(firstFD+i), unix.F_GETFD, 0); err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Descriptor %d was announced and is not open.", firstFD+i),
				"Leave LISTEN_FDS as the supervisor set it.", err)
		}
	}
	files := map[string][]*os.File{}
	for i := range count {
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(firstFD + i)
		files[name] = append(files[name], os.NewFile(uintptr(firstFD+i), name))
	}
	return files, nil
}

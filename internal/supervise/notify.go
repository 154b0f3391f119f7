package supervise

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxMessage = 4096 // of systemd's protocol, too
	maxFiles   = 253  // SCM_MAX_FD
)

// message is what a process told the supervisor (sd_notify(3)). MAINPID and the rest of the protocol are not heard: a
// process does not choose who the supervisor takes for it.
type message struct {
	ready, stopping, store, remove bool
	name                           string
}

func parseMessage(b []byte) message {
	m := message{name: "stored"} // systemd's default
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "READY":
			m.ready = value == "1"
		case "STOPPING":
			m.stopping = value == "1"
		case "FDSTORE":
			m.store = value == "1"
		case "FDSTOREREMOVE":
			m.remove = value == "1"
		case "FDNAME":
			m.name = value
		}
	}
	return m
}

// listenNotify makes the socket on which u's process speaks. Only its own user can write to the path; that the process
// itself is speaking is checked on each message.
func (u *unit) listenNotify() error {
	path := u.s.cfg.Installation.NotifySocket(u.spec.Name)
	fd, err := bindUnix(path, unix.SOCK_DGRAM, u.spec.User, 0o600, func(fd int) error {
		// Before the bind, so that no message can be waiting that the kernel did not sign.
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	u.notify = conn.(*net.UnixConn)
	go u.hear()
	return nil
}

// hear reads messages until the socket is closed.
func (u *unit) hear() {
	defer close(u.heard)
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxFiles))
	for {
		n, oobn, flags, _, err := u.notify.ReadMsgUnix(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			u.s.log.Warn("notify socket", "process", u.spec.Name, "error", err)
			continue
		}
		pid, fds := control(oob[:oobn])
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			closeAll(fds) // part of it is missing: nothing of it counts
			continue
		}
		if u.take(pid, parseMessage(buf[:n]), fds) {
			if err := u.s.save(); err != nil {
				u.s.log.Error("cannot write the state", "error", err)
			}
		}
	}
}

// control returns the sender, as the kernel knows it, and the descriptors that came along. All of those are open now, so
// all are returned, whatever else is wrong.
func control(oob []byte) (pid int, fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, nil
	}
	for i := range messages {
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(cred.Pid)
		}
	}
	return pid, fds
}

// take acts on one message and tells whether the state changed. It owns fds.
func (u *unit) take(pid int, m message, fds []int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := slices.IndexFunc(u.children, func(c *child) bool { return c.pid == pid })
	if i < 0 || u.children[i].retiring && (m.store || m.remove) {
		closeAll(fds)
		u.refused++
		return false
	}
	changed := false
	switch {
	case m.store && u.hasListener(m.name):
		closeAll(fds)
		u.refused++
	case m.store:
		if changed = u.store.put(m.name, fds); !changed {
			u.refused++
		}
	case m.remove:
		closeAll(fds)
		u.store.remove(m.name)
		changed = true
	default:
		closeAll(fds)
	}
	if m.ready {
		u.children[i].markReady()
		u.firstOnce.Do(func() { close(u.firstReady) })
	}
	if m.stopping {
		u.children[i].markLeaving()
	}
	return changed
}

// hasListener keeps a stored descriptor from taking the name of a socket that the supervisor made.
func (u *unit) hasListener(name string) bool {
	return slices.ContainsFunc(u.spec.Listeners, func(l Listener) bool { return l.Name == name })
}

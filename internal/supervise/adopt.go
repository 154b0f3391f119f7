package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// takeOver finds the processes of a supervisor that was killed and takes sockets and stored descriptors out of them. It
// changes nothing in them, and returns before anything new is bound or started.
func (s *supervisor) takeOver() error {
	st, err := s.loadState()
	if err != nil {
		return err
	}
	for _, u := range s.units {
		left := st.Processes[u.spec.Name]
		for _, l := range left.Children {
			u.adopt(l.PID, func(started uint64) bool { return started == l.Started }, left)
		}
		// One that was started a moment before the kill may not be in the file.
		for _, pid := range u.strays() {
			u.adopt(pid, func(uint64) bool { return u.looksOurs(pid) }, left)
		}
	}
	return nil
}

// adopt takes the process pid for one of u, if it is the one that was meant.
func (u *unit) adopt(pid int, meant func(started uint64) bool, left leftState) {
	if slices.ContainsFunc(u.children, func(c *child) bool { return c.pid == pid }) {
		return
	}
	// First the pidfd, then the look: what is looked at now is what the pidfd names, or it is gone and the look fails.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return
	}
	started, err := startTime(pid)
	uid, uerr := userOf(pid)
	if err != nil || uerr != nil || uid != u.spec.User || !meant(started) {
		unix.Close(fd)
		return
	}
	u.recover(pid, fd, left)
	u.children = append(u.children, follow(pid, fd, started))
	u.s.log.Info("found running", "process", u.spec.Name, "pid", pid)
}

// follow watches a process that is not our child: its exit status is for init, but its pidfd tells the end.
func follow(pid, pidfd int, started uint64) *child {
	c := &child{pid: pid, started: started, since: time.Now(), adopted: true, ready: make(chan struct{}), done: make(chan struct{}),
		leaving: make(chan struct{})}
	c.markReady()
	f := os.NewFile(uintptr(pidfd), "pidfd") // does not block, so the run-time's poller waits, not a thread
	c.signal = func(sig syscall.Signal) error {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var sent error
		if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
			return err
		}
		return sent
	}
	go func() {
		defer close(c.done)
		defer f.Close()
		c.reason = "ended (it was the child of an earlier supervisor)"
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Read(func(fd uintptr) bool {
				p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				n, err := unix.Poll(p, 0)
				return n > 0 || err != nil && err != unix.EINTR
			})
		}
		if err != nil {
			c.reason = err.Error()
		}
	}()
	return c
}

// recover copies what the file says that the process holds of ours.
func (u *unit) recover(pid, pidfd int, left leftState) {
	open := openInodes(pid)
	take := func(d leftDescriptor) (int, bool) {
		number, ok := open[d.inode]
		if !ok {
			return -1, false
		}
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			u.s.log.Warn("cannot take a descriptor back", "process", u.spec.Name, "name", d.Name, "error", err)
			return -1, false
		}
		if id, err := inodeOf(fd); err != nil || id != d.inode {
			unix.Close(fd) // it was closed and its number used anew between the two looks
			return -1, false
		}
		return fd, true
	}
	for _, l := range left.Listeners {
		u.recoverListener(l, take)
	}
	for _, d := range left.Stored {
		if slices.ContainsFunc(u.store.held, func(h descriptor) bool { return h.id == d.inode && h.name == d.Name }) {
			continue
		}
		if fd, ok := take(d); ok {
			u.store.held = append(u.store.held, descriptor{name: d.Name, fd: fd, id: d.inode})
		} else {
			u.s.log.Warn("a stored descriptor died with the last supervisor: the process had closed its own", "process", u.spec.Name, "name", d.Name)
		}
	}
}

func (u *unit) recoverListener(l leftListener, take func(leftDescriptor) (int, bool)) {
	i := u.index(l.Name)
	if i < 0 || u.spec.Listeners[i].Address != l.Address ||
		slices.ContainsFunc(u.listeners, func(have listener) bool { return have.name == l.Name }) {
		return // the table has changed, or another process gave it already
	}
	spec := u.spec.Listeners[i]
	if spec.unix() {
		if st, err := os.Lstat(spec.Address); err != nil || st.Mode().Type() != os.ModeSocket {
			return // nobody could connect
		}
	}
	fd, ok := take(l.leftDescriptor)
	if !ok {
		return
	}
	got, err := describe(spec, fd)
	if err != nil {
		return
	}
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || (accepts == 1) == (spec.Network == "udp") || got.bound != l.Bound {
		unix.Close(fd) // no longer what we made: bind anew
		return
	}
	u.listeners = append(u.listeners, got)
}

// openInodes returns a descriptor number of the process for each thing that it holds open.
func openInodes(pid int) map[inode]int {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	open := map[inode]int{}
	for _, e := range entries {
		var st unix.Stat_t
		number, err := strconv.Atoi(e.Name())
		if err == nil && unix.Stat(filepath.Join(dir, e.Name()), &st) == nil {
			open[inode{Dev: st.Dev, Ino: st.Ino}] = number
		}
	}
	return open
}

// strays returns the processes that look like u's.
func (u *unit) strays() []int {
	entries, _ := os.ReadDir("/proc")
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && u.looksOurs(pid) {
			found = append(found, pid)
		}
	}
	return found
}

// looksOurs tells whether a process has the environment and the arguments that only we give. Its user, which nobody can
// choose, is checked by adopt; a user who is not the process's own can write the same into a process of his, and gains nothing.
func (u *unit) looksOurs(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	want := []byte("NOTIFY_SOCKET=" + u.s.cfg.Installation.NotifySocket(u.spec.Name))
	if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return bytes.Equal(v, want) }) {
		return false
	}
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	// A shim inherits containerd's environment, so the arguments count too.
	return err == nil && len(args) > 0 && slices.Equal(args[1:], u.spec.Args)
}

// userOf returns the real user id of a process.
func userOf(pid int) (uint32, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(rest); len(f) == 4 {
				id, err := strconv.ParseUint(string(f[0]), 10, 32)
				return uint32(id), err
			}
		}
	}
	return 0, fmt.Errorf("supervise: /proc/%d/status has no Uid", pid)
}

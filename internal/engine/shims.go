package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// EndLost ends the shims that an engine which was killed had begun to start, and that nobody will find again: the engine writes down how it
// speaks with a shim when that has begun, and reads it when it begins itself. Such a shim has no process below it yet. state and socket
// are the engine's; it is called before the engine begins, and returns how many it ended.
func EndLost(state, socket string) (int, error) {
	return shimsOf{state: state, socket: socket}.endLost()
}

// shimsOf are shims of an engine: all, or that of one container.
type shimsOf struct {
	state, socket string
	namespace, id string // "" for all
}

func (s shimsOf) endLost() (int, error) {
	ended := 0
	for range 5 { // one that was found may just have started another
		n, err := s.endFound()
		if ended += n; n == 0 || err != nil {
			return ended, err
		}
	}
	return ended, nil
}

func (s shimsOf) endFound() (ended int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("engine: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// The descriptor first: what is looked at is then what is ended, also if the number is given to another meanwhile.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if s.lost(pid) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000) // until it has ended
			ended++
		}
		unix.Close(fd)
	}
	return ended, nil
}

// lost tells whether a process is one of the shims, or is starting one, and the engine does not know of it.
func (s shimsOf) lost(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	st, err := os.Stat(dir)
	if err != nil || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) { //nolint:forcetypeassert // of this system
		return false // anybody can give a process of his own these arguments
	}
	b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false
	}
	var args []string
	for _, a := range bytes.Split(b, []byte{0}) {
		args = append(args, string(a))
	}
	if filepath.Base(args[0]) != "containerd-shim-runc-v2" || value(args, "-address") != s.socket {
		return false
	}
	id, namespace := value(args, "-id"), value(args, "-namespace")
	if id == "" || namespace == "" || id != filepath.Base(id) || namespace != filepath.Base(namespace) {
		return false
	}
	if s.id != "" && (id != s.id || namespace != s.namespace) {
		return false
	}
	_, err = os.Lstat(filepath.Join(s.state, "io.containerd.runtime.v2.task", namespace, id, "bootstrap.json"))
	return errors.Is(err, fs.ErrNotExist)
}

func value(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

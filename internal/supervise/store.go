package supervise

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inode names what a descriptor refers to. Two descriptors of one socket, memory file or namespace have the same.
type inode struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return inode{Dev: st.Dev, Ino: st.Ino}, err
}

// descriptor is one that the supervisor keeps for a process. It is not an os.File, so that the run-time's poller leaves
// it alone.
type descriptor struct {
	name string
	fd   int
	id   inode
}

// store is what one process has left with the supervisor. Its unit's mu guards it.
type store struct {
	limit int
	held  []descriptor // sorted by name; several may have one name
}

// put keeps fds under name, in the place of what was there. It takes them over: those that do not fit are closed.
func (s *store) put(name string, fds []int) bool {
	rest := len(s.held) - s.count(name)
	if !validName(name) || rest+len(fds) > s.limit {
		closeAll(fds)
		return false
	}
	var fresh []descriptor
	for _, fd := range fds {
		id, err := inodeOf(fd)
		if err != nil {
			unix.Close(fd)
			continue
		}
		fresh = append(fresh, descriptor{name: name, fd: fd, id: id})
	}
	s.remove(name)
	s.held = append(s.held, fresh...)
	slices.SortStableFunc(s.held, func(a, b descriptor) int { return strings.Compare(a.name, b.name) })
	return true
}

func (s *store) remove(name string) {
	s.held = slices.DeleteFunc(s.held, func(d descriptor) bool {
		if d.name == name {
			unix.Close(d.fd)
		}
		return d.name == name
	})
}

func (s *store) count(name string) int {
	n := 0
	for _, d := range s.held {
		if d.name == name {
			n++
		}
	}
	return n
}

// list returns what is kept, by name, then in the order of arrival.
func (s *store) list() []descriptor { return slices.Clone(s.held) }

func (s *store) close() {
	for _, d := range s.held {
		unix.Close(d.fd)
	}
	s.held = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

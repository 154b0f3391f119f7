package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// state is what the next supervisor needs to take over after this one was killed: which processes there are, and what
// they hold of ours. Descriptors are named by inode, not by number: a process may have copied them, but what
// they refer to stays. The file is only ever replaced as a whole; only root reads it.
type state struct {
	Boot      string               `json:"boot"` // the kernel's boot id: start times of another boot mean nothing
	Processes map[string]leftState `json:"processes"`
}

type leftState struct {
	Children  []leftChild      `json:"children"`
	Listeners []leftListener   `json:"listeners"`
	Stored    []leftDescriptor `json:"stored"`
}

type leftChild struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`
}

type leftDescriptor struct {
	Name string `json:"name"`
	inode
}

type leftListener struct {
	leftDescriptor
	Address string `json:"address"` // as the table had it
	Bound   string `json:"bound"`   // as it is
}

// save writes the state file. It is called after each change and before anything relies on it.
func (s *supervisor) save() error {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	st := state{Boot: s.boot, Processes: map[string]leftState{}}
	for _, u := range s.units {
		st.Processes[u.spec.Name] = u.left()
	}
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	path := s.cfg.Installation.StateFile()
	tmp := path + ".new" // one writer: the lock is ours
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	// No sync: it has to survive our death, not the machine's; after a boot it is worth nothing.
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("supervise: cannot write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func (u *unit) left() leftState {
	u.mu.Lock()
	defer u.mu.Unlock()
	var l leftState
	for _, c := range u.children {
		l.Children = append(l.Children, leftChild{PID: c.pid, Started: c.started})
	}
	for _, h := range u.listeners {
		l.Listeners = append(l.Listeners, leftListener{leftDescriptor{h.name, h.id}, h.spec.Address, h.bound})
	}
	for _, d := range u.store.list() {
		l.Stored = append(l.Stored, leftDescriptor{d.name, d.id})
	}
	return l
}

// loadState returns what an earlier supervisor of this boot left, or nothing.
func (s *supervisor) loadState() (state, error) {
	b, err := os.ReadFile(s.cfg.Installation.StateFile())
	if os.IsNotExist(err) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("supervise: %w", err)
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		s.log.Warn("the state of the last supervisor cannot be read; its processes are looked for by hand", "error", err)
		return state{}, nil
	}
	if st.Boot != s.boot {
		return state{}, nil
	}
	return st, nil
}

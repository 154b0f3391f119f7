package kit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is the hidden subcommand by which the kit starts itself for one attempt: what the attempt does to its process,
// or has done to it, ends with that process.
const child = "attempt"

// Names of attempts that are only part of others.
const (
	doNothing = "do nothing" // shows that it could be started
	sleep     = "sleep"      // is a target
	mountIn   = "mount in new namespaces"
	agentIn   = "release agent in new namespaces"
	fsopenIn  = "fsopen in new namespaces"
	tablesIn  = "packet filter in new namespaces"
)

// How long an attempt may take; and that of all system calls, of which some thousand copies of the process are made, also
// where the instance has a tenth of a processor.
const (
	attemptTime  = 10 * time.Second
	allCallsTime = time.Minute
)

// scene is what an attempt knows.
type scene struct {
	exe       string
	env       []string
	neighbour int // a process that is known to be another's; 0 if none was named
}

func newScene(o *options) *scene {
	// By this link it is found where its folder is closed to it, and where the root is another's.
	exe := "/proc/self/exe"
	if _, err := os.Stat(exe); err != nil {
		exe = os.Args[0]
	}
	return &scene{exe: exe, env: o.env, neighbour: o.neighbour}
}

// try is one row of the tables.
type try struct {
	name, shape string
	run         func(*scene) outcome
}

// attempt runs a row in a process of its own.
func (s *scene) attempt(t try) Attempt {
	a := Attempt{Name: t.name, Shape: t.shape}
	out := s.again(t.name, nil)
	a.Reached, a.Untried, a.Detail = out.Reached, out.Untried, out.Detail
	return a
}

// again starts the kit once more for an attempt, perhaps with other attributes, and returns what it says. If it cannot be
// started, that is an outcome only for those who asked for attributes.
func (s *scene) again(name string, attr *syscall.SysProcAttr) outcome {
	r, w, err := os.Pipe()
	if err != nil {
		return untried("no pipe: %v", err)
	}
	defer r.Close()
	p, err := s.start(name, attr, w)
	w.Close()
	if err != nil {
		short := slices.ContainsFunc([]error{unix.EAGAIN, unix.ENOMEM, unix.ETXTBSY, unix.EMFILE, unix.ENFILE}, func(e error) bool { return errors.Is(err, e) })
		if attr == nil || short {
			return untried("no process of its own: %v", err)
		}
		return refused("%v", err)
	}
	patience := attemptTime
	if name == systemCalls {
		patience = allCallsTime
	}
	var slow atomic.Bool
	late := time.AfterFunc(patience, func() { slow.Store(true); _ = p.Kill() })
	defer late.Stop()
	b, _ := io.ReadAll(io.LimitReader(r, 64<<10))
	state, err := p.Wait()
	if err != nil {
		return untried("its process was lost: %v", err)
	}
	var out outcome
	if json.Unmarshal(b, &out) == nil && out.Detail != "" {
		return out
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == unix.SIGSYS {
		return refused("killed for it by the system call filter")
	}
	if slow.Load() {
		return untried("it did not end in %v", patience)
	}
	return untried("it ended without a word: %v", state)
}

func (s *scene) start(name string, attr *syscall.SysProcAttr, out *os.File) (*os.Process, error) {
	args := []string{child}
	if s.neighbour > 0 {
		args = append(args, "--neighbour", strconv.Itoa(s.neighbour))
	}
	return s.startWith(append(args, name), attr, out)
}

// startWith starts the kit itself, with no word of anybody else's: internal/process is not imported here. Its standard
// input is the kit's own, which nobody reads: without one it would need a /dev.
func (s *scene) startWith(args []string, attr *syscall.SysProcAttr, out *os.File) (*os.Process, error) {
	if out == nil {
		out = os.Stderr
	}
	return os.StartProcess(s.exe, append([]string{"bulwark-kit"}, args...), &os.ProcAttr{Env: s.env, Files: []*os.File{os.Stdin, out, os.Stderr}, Sys: attr})
}

// sleeper is a process to try things on: the kit, doing nothing. The function ends it.
func (s *scene) sleeper() (int, func(), error) {
	p, err := s.start(sleep, nil, nil)
	if err != nil {
		return 0, nil, err
	}
	return p.Pid, func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}, nil
}

func runChild(o *options, stdout io.Writer) error {
	if len(o.names) != 1 {
		return errUsage
	}
	// What an attempt changes for its thread is to be so for all that it does; and it ends whatever happens.
	runtime.LockOSThread()
	time.AfterFunc(allCallsTime+attemptTime, func() { os.Exit(exitFailed) })
	s := newScene(o)
	all := slices.Concat(tries(), parts())
	i := slices.IndexFunc(all, func(t try) bool { return t.name == o.names[0] })
	if i < 0 {
		return fmt.Errorf("%w: no attempt %q", errUsage, o.names[0])
	}
	return json.NewEncoder(stdout).Encode(all[i].run(s))
}

// tries are all attempts of the subcommand isolation, in the order of the report.
func tries() []try {
	return slices.Concat(processTries(), namespaceTries(), mountTries(), identityTries(), kernelTries(), socketTries(), fileTries(), readTries(), shapeTries())
}

// parts are what attempts start in namespaces of their own.
func parts() []try {
	return []try{
		{name: doNothing, run: func(*scene) outcome { return reached("started") }},
		{name: sleep, run: func(*scene) outcome { time.Sleep(attemptTime); return refused("slept") }},
		{name: mountIn, run: mountHere},
		{name: agentIn, run: releaseAgentHere},
		{name: fsopenIn, run: func(*scene) outcome { return did(fsopen()) }},
		{name: tablesIn, run: func(*scene) outcome { return did(packetFilter()) }},
		{name: systemCalls, run: systemCallsHere},
	}
}

// newUser is a child in a new user namespace, root there, and in others.
func newUser(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | flags,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
	}
}

// errno turns the third result of a raw system call into an error.
func errno(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// call makes a system call. What its arguments point to stays where it is meanwhile.
//
//go:uintptrescapes
func call(nr uintptr, a ...uintptr) (uintptr, error) {
	var v [6]uintptr
	copy(v[:], a)
	r, _, e := unix.Syscall6(nr, v[0], v[1], v[2], v[3], v[4], v[5])
	return r, errno(e)
}

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func kill9(ts *testscript.TestScript, _ bool, args []string) {
	on := of(ts).on
	switch {
	case len(args) == 1 && args[0] == "up":
		ts.Check(on.killUp())
	case len(args) == 1:
		on.end(ts, args[0], syscall.SIGKILL)
	case len(args) == 2 && args[0] != "up":
		away, err := time.ParseDuration(args[1])
		ts.Check(err)
		pid, err := on.pid(args[0])
		ts.Check(err)
		ts.Check(on.signalUp(syscall.SIGSTOP))
		err = syscall.Kill(pid, syscall.SIGKILL)
		time.Sleep(away)
		ts.Check(on.signalUp(syscall.SIGCONT))
		ts.Check(err)
		ts.Check(on.noticed(args[0], pid))
	default:
		ts.Fatalf("usage: kill9 PROCESS [DURATION]")
	}
}

// term sends SIGTERM to a process past the supervisor, which must have noticed when it returns: "term PROCESS".
func term(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: term PROCESS")
	}
	of(ts).on.end(ts, args[0], syscall.SIGTERM)
}

func (i *installation) end(ts *testscript.TestScript, name string, by syscall.Signal) {
	pid, err := i.pid(name)
	ts.Check(err)
	ts.Check(syscall.Kill(pid, by))
	ts.Check(i.noticed(name, pid))
}

// noticed waits until the supervisor knows of an end: else who asks whether the process is back is told that it is.
func (i *installation) noticed(name string, pid int) error {
	return poll(10*time.Second, func() error {
		if now, err := i.pid(name); err == nil && now == pid {
			return fmt.Errorf("the supervisor still says that %s is process %d", name, pid)
		}
		return nil
	})
}

func (i *installation) signalUp(sig syscall.Signal) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.up.cmd.Process.Signal(sig)
}

func (i *installation) pid(name string) (int, error) {
	all, err := i.status()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if p.Name == name && p.PID != 0 {
			return p.PID, nil
		}
	}
	return 0, fmt.Errorf("there is no running process %s", name)
}

func back(ts *testscript.TestScript, _ bool, args []string) {
	on := of(ts).on
	began := time.Now()
	ts.Check(poll(60*time.Second, func() error {
		all, err := on.status()
		if err != nil {
			return err
		}
		for _, p := range all {
			if (len(args) == 0 || slices.Contains(args, p.Name)) && p.State != "running" {
				return fmt.Errorf("%s is %s (%s)", p.Name, p.State, p.LastExit)
			}
		}
		return nil
	}))
	ts.Logf("%s: back after %d ms", strings.Join(args, " "), time.Since(began).Milliseconds())
}

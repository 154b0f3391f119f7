// Command bulwark-init is the first process of every instance. It takes the app's config from the node over a unix socket
// that is bound into the instance, so that no value ever stands in an OCI spec, on a disk or in an argument list; starts
// the app's command with them in its environment; passes signals on; reaps orphans; and ends as the app ended.
//
// It runs inside the instance, as the app's own user and without capabilities: whoever owns the app may own it too and
// gains nothing, since it holds what the app was given and no more. The node serves the socket once.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketPath is where the node binds its end of the config socket.
const socketPath = "/.bulwark/socket"

// Exit codes of its own, in the manner of env(1) and shells.
const (
	exitPlatform = 125 // the config could not be had
	exitNotExec  = 126
	exitNotFound = 127
)

func main() {
	merge, expanding := false, false
	argv := os.Args[1:]
	for len(argv) > 0 && argv[0] != "--" {
		switch argv[0] {
		case "--merge":
			merge = true
		case "--expand":
			expanding = true
		default:
			argv = []string{"--"} // the usage
			continue
		}
		argv = argv[1:]
	}
	if len(argv) < 2 {
		fail(exitPlatform, "usage: init [--merge] [--expand] -- COMMAND [ARGUMENT ...]")
	}
	argv = argv[1:]
	if merge {
		// One pipe for both: lines keep their order, and containerd's shim, which writes both to one file, closes that file
		// when the first of two pipes ends and loses what is left in the other (2.4.2, copyPipes).
		if err := syscall.Dup3(1, 2, 0); err != nil {
			fail(exitPlatform, "the standard streams cannot be joined: %v", err)
		}
	}
	env, err := config()
	if err != nil {
		fail(exitPlatform, "the config could not be fetched: %v", err)
	}
	if expanding {
		argv = expand(argv, env)
	}
	os.Exit(run(argv, env))
}

func fail(code int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bulwark: "+format+"\n", args...)
	os.Exit(code)
}

// config returns the environment: what the spec has, overlaid with what the node sends.
func config() ([]string, error) {
	c, err := net.DialTimeout("unix", socketPath, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	if err := json.Unmarshal(b, &values); err != nil {
		return nil, errors.New("the node's answer cannot be read")
	}
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if _, set := values[name]; !set {
			env = append(env, kv)
		}
	}
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return env, nil
}

// expand replaces $NAME and ${NAME}; an unset name becomes empty, "$$" becomes "$".
func expand(argv, env []string) []string {
	get := func(name string) string {
		if name == "$" {
			return "$"
		}
		return lookup(env, name)
	}
	out := make([]string, 0, len(argv))
	for _, a := range argv {
		out = append(out, os.Expand(a, get))
	}
	return out
}

func lookup(env []string, name string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// run starts argv and returns the exit code: 128 and the signal's number if one ended it.
func run(argv, env []string) int {
	path, err := find(argv[0], env)
	if err != nil {
		fail(exitNotFound, "the command %q is not in the image; look at its Procfile line", argv[0])
	}
	attr := &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{}}
	if os.Getenv("BULWARK_TERMINAL") != "" {
		if err := leaveTerminal(); err != nil {
			fail(exitPlatform, "the terminal cannot be handed over: %v", err)
		}
		attr.Sys.Setsid, attr.Sys.Setctty = true, true
	} else {
		attr.Sys.Setpgid = true // so that a signal reaches every process of a pipeline
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		fail(exitNotExec, "the command %q cannot be executed: %v", argv[0], err)
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(p.Pid); ended {
				return code
			}
		case syscall.SIGURG: // Go's own, for preemption
		default:
			if sig, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(-p.Pid, sig) // it may have ended just now
			}
		}
	}
	return exitPlatform
}

// leaveTerminal gives up the terminal that the runtime made this process's own, so that the command can have it in a
// session of its own: as the leader of that session it is sent what the terminal's keys stand for, and cannot be suspended
// for ever with nobody to continue it. Giving it up sends a SIGHUP to its foreground, which is this process.
func leaveTerminal() error {
	signal.Ignore(syscall.SIGHUP)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCNOTTY, 0); errno != 0 && errno != syscall.ENOTTY {
		return errno
	}
	return nil
}

// reap collects every child that ended and tells whether the app's own process was among them.
func reap(pid int) (code int, ended bool) {
	for {
		var st syscall.WaitStatus
		got, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || got <= 0 {
			return code, ended
		}
		if got != pid {
			continue
		}
		ended = true
		if code = st.ExitStatus(); st.Signaled() {
			code = 128 + int(st.Signal())
		}
	}
}

// find looks a command up as execvp(3) does, in the app's PATH.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(lookup(env, "PATH")) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", os.ErrNotExist
}

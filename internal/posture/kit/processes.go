package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processTries are about other processes. "Outside" is a process that is not of this instance: see outsiders.
func processTries() []try {
	return []try{
		// Whoever sees other apps' processes reads their arguments, and has targets.
		{name: "see a process outside", run: seeOutside},
		{name: "signal a process outside", run: onOutside(func(pid int) error { return unix.Kill(pid, 0) })},
		// The memory of another process is its secrets. Address 0 is never mapped: the right is checked first, nothing is read.
		{name: "read the memory of a process outside", run: onOutside(readNothing, unix.EFAULT)},
		{name: "write the memory of a process outside", run: onOutside(writeNothing, unix.EFAULT)},
		{name: "open the memory file of a process outside", run: onOutside(func(pid int) error { return openOnly(pidFile(pid, "mem"), unix.O_RDWR) })},
		{name: "open the environment of a process outside", run: onOutside(func(pid int) error { return openOnly(pidFile(pid, "environ"), unix.O_RDONLY) })},
		// A descriptor that is taken from another process is a connection of its own, or a file that cannot be named here.
		{name: "take a descriptor of a process outside", run: onOutside(takeNoDescriptor, unix.EBADF)},
		{name: "read the limits of a process outside", run: onOutside(func(pid int) error { return unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &unix.Rlimit{}) })},
		{name: "ptrace a process outside", run: ptraceOutside},
		// On a child nothing is gained; but these calls are how the holes above are used when there is one in the kernel, and
		// no app needs them.
		{name: "ptrace a child", run: onChild(seize)},
		{name: "process_vm_readv a child", run: onChild(readNothing, unix.EFAULT)},
		{name: "process_vm_writev a child", run: onChild(writeNothing, unix.EFAULT)},
		{name: "pidfd_getfd a child", run: onChild(takeNoDescriptor, unix.EBADF)},
		{name: "process_madvise a child", run: onChild(adviseNothing)},
		{name: "kcmp a child", run: onChild(func(pid int) error {
			const vm = 1
			_, err := call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(pid), vm, 0, 0)
			return err
		})},
		// Below the adjustment it was given, a process survives the host's shortage of memory at its neighbours' cost.
		{name: "lower the own oom_score_adj", run: func(*scene) outcome {
			now, err := strconv.Atoi(firstBytes("/proc/self/oom_score_adj"))
			if err != nil {
				return refused("%v", err)
			}
			return did(os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(max(now-1, -1000))), 0))
		}},
		// Real-time and a better nice value take the processor from others.
		{name: "run with real-time priority", run: func(*scene) outcome {
			prio := int32(1)
			_, err := call(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&prio)))
			return did(err)
		}},
		{name: "run with a better nice value", run: func(*scene) outcome { return did(unix.Setpriority(unix.PRIO_PROCESS, 0, -1)) }},
	}
}

// process is one that /proc shows.
type process struct {
	pid, parent int
	kernel      bool
	name        string
}

func processes() []process {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var out []process
	for _, n := range names {
		pid, err := strconv.Atoi(filepath.Base(n))
		b, readErr := os.ReadFile(filepath.Join(n, "stat"))
		if err != nil || readErr != nil {
			continue
		}
		// pid (name) state ppid pgrp session tty tpgid flags; the name may hold anything.
		text := string(b)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		if open < 0 || end < open {
			continue
		}
		f := strings.Fields(text[end+1:])
		if len(f) < 7 {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		flags, _ := strconv.ParseUint(f[6], 10, 64)
		const kernelThread = 0x00200000 // PF_KTHREAD
		out = append(out, process{pid: pid, parent: parent, kernel: flags&kernelThread != 0, name: text[open+1 : end]})
	}
	return out
}

// outsiders are processes that are not of this instance. In a process namespace of its own all but a named neighbour is
// the instance's own: what entered it is seen as such. In the host's, everything but the kit's own line of parents and
// children is another's.
func (s *scene) outsiders() (out []process, why string) {
	all := processes()
	if s.neighbour > 0 {
		for _, p := range all {
			if p.pid == s.neighbour {
				return []process{p}, "it was named as a neighbour"
			}
		}
	}
	parents := map[int]int{}
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	line := func(from, to int) bool {
		for range len(all) + 1 {
			if from == to {
				return true
			}
			if from = parents[from]; from == 0 {
				return false
			}
		}
		return false
	}
	host := atHost("pid")
	for _, p := range all {
		if p.kernel || host && !line(p.pid, os.Getpid()) && !line(os.Getpid(), p.pid) {
			out = append(out, p)
		}
	}
	return out, "the kernel's own threads are seen, or the process namespace is the host's"
}

// maxPID is up to where processes are looked for that /proc does not show.
const maxPID = 1 << 16

func seeOutside(s *scene) outcome {
	out, why := s.outsiders()
	if len(out) > 0 {
		return reached("%d processes, such as %d (%s): %s", len(out), out[0].pid, out[0].name, why)
	}
	// A signal that is none tells whether a process is there that /proc hides.
	for pid := 1; pid < maxPID; pid++ {
		if err := unix.Kill(pid, 0); err == unix.ESRCH {
			continue
		}
		if _, err := os.Stat(pidFile(pid, "")); os.IsNotExist(err) && unix.Kill(pid, 0) != unix.ESRCH {
			return reached("process %d answers to a signal, and /proc does not show it", pid)
		}
	}
	return refused("only the instance's own are seen, and no hidden one answers")
}

// onOutside tries on a process that is not of the instance: on one that is no thread of the kernel's, since those have
// nothing to take.
func onOutside(on func(pid int) error, after ...error) func(*scene) outcome {
	return func(s *scene) outcome {
		out, _ := s.outsiders()
		out = slices.DeleteFunc(out, func(p process) bool { return p.kernel })
		if len(out) == 0 {
			return refused("no process outside can be seen")
		}
		return past(on(out[0].pid), after...)
	}
}

// onChild tries on a process of the kit's own.
func onChild(on func(pid int) error, after ...error) func(*scene) outcome {
	return func(s *scene) outcome {
		pid, end, err := s.sleeper()
		if err != nil {
			return untried("no process to try it on: %v", err)
		}
		defer end()
		return past(on(pid), after...)
	}
}

func ptraceOutside(s *scene) outcome {
	out, _ := s.outsiders()
	if len(out) == 0 {
		return refused("no process outside can be seen")
	}
	if s.neighbour == 0 {
		return untried("no neighbour was named, and nobody else's process is held on to for a test; reading its memory takes the same right")
	}
	return did(seize(s.neighbour))
}

// seize attaches without stopping; it lets go when the process of this attempt ends.
func seize(pid int) error {
	_, err := call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0)
	return err
}

func readNothing(pid int) error {
	var b [1]byte
	_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	return err
}

func writeNothing(pid int) error {
	var b [1]byte
	_, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	return err
}

// takeNoDescriptor asks for a descriptor that no process has; the right is checked before it is looked for.
func takeNoDescriptor(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	got, err := unix.PidfdGetfd(fd, 1<<30, 0)
	if err == nil {
		unix.Close(got)
	}
	return err
}

func adviseNothing(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var v unix.Iovec
	_, err = call(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&v)), 0, unix.MADV_COLD, 0)
	return err
}

func pidFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// openOnly opens a file and closes it, without reading or writing. It does not wait for a device or a pipe.
func openOnly(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

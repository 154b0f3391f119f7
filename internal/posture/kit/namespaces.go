package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kinds of namespaces: the link in /proc/PID/ns, the flag, and the number of the one that the host began with. The
// numbers are part of the kernel's interface (include/uapi/linux/nsfs.h); those of mnt and net since 6.18.
type namespace struct {
	kind  string
	flag  uintptr
	first uint32
}

func namespaces() []namespace {
	return []namespace{
		{"user", unix.CLONE_NEWUSER, 0xEFFFFFFD},
		{"pid", unix.CLONE_NEWPID, 0xEFFFFFFC},
		{"mnt", unix.CLONE_NEWNS, 0xEFFFFFF8},
		{"ipc", unix.CLONE_NEWIPC, 0xEFFFFFFF},
		{"uts", unix.CLONE_NEWUTS, 0xEFFFFFFE},
		{"net", unix.CLONE_NEWNET, 0xEFFFFFF9},
		{"cgroup", unix.CLONE_NEWCGROUP, 0xEFFFFFFB},
		{"time", unix.CLONE_NEWTIME, 0xEFFFFFFA},
	}
}

func namespaceTries() []try {
	var out []try
	for _, n := range namespaces() {
		if n.kind != "time" { // the clocks of an instance are the host's; it cannot set them
			// What is not separated is shared with the host and with every other instance.
			out = append(out, try{name: "be in the host's " + n.kind + " namespace", run: func(*scene) outcome {
				if atHost(n.kind) {
					return reached("%s is the one that the host began with", readlink("self", n.kind))
				}
				return refused("%s", readlink("self", n.kind))
			}})
			// A new namespace, above all of users, gives rights over code of the kernel that trusted root alone.
			out = append(out, try{name: "clone into a new " + n.kind + " namespace", run: func(s *scene) outcome {
				return s.again(doNothing, &syscall.SysProcAttr{Cloneflags: n.flag})
			}})
		}
		out = append(out, try{name: "unshare the " + n.kind + " namespace", run: func(s *scene) outcome {
			if n.kind != "user" {
				return did(unix.Unshare(int(n.flag)))
			}
			return s.again(doNothing, &syscall.SysProcAttr{Unshareflags: n.flag}) // takes a process with one thread
		}})
	}
	return append(out,
		// setns enters what another process has. Into one's own nothing changes, and the right that it takes is the same.
		try{name: "setns", run: func(*scene) outcome { return did(enter("self", "uts", unix.CLONE_NEWUTS)) }},
		try{name: "enter the namespaces of process 1", run: func(*scene) outcome {
			var last error
			for _, n := range namespaces() {
				if n.kind == "user" || n.kind == "mnt" || n.kind == "time" {
					continue // need a process with one thread
				}
				if last = enter("1", n.kind, n.flag); last == nil {
					return reached("the %s namespace", n.kind)
				}
			}
			return refused("%v", last)
		}},
	)
}

func readlink(pid, kind string) string {
	l, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		return fmt.Sprintf("%s: %v", kind, err)
	}
	return l
}

// atHost reports whether the process is in the namespace that the host began with. Before Linux
// 6.18 those of mounts and network had no number of their own, and are not known again.
func atHost(kind string) bool {
	for _, n := range namespaces() {
		if n.kind == kind && strings.HasSuffix(readlink("self", kind), fmt.Sprintf("[%d]", n.first)) {
			return true
		}
	}
	return false
}

func enter(pid, kind string, flag uintptr) error {
	f, err := os.Open(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), int(flag))
}

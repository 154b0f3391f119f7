package kit

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// buildTries are the attempts that a build step must not succeed with either. In a builder's user namespace a step may be
// root, hold capabilities over what is its own, and mount in mounts of its own; those attempts are not among them.
func buildTries() []try {
	wanted := []string{"see a process outside", "signal a process outside", "read the memory of a process outside", "write the memory of a process outside",
		"open the environment of a process outside", "take a descriptor of a process outside", "ptrace a process outside",
		"be a user of the host's", "run without a system call filter", "enter the namespaces of process 1", "mount debugfs",
		"mknod a block device", "open a block device", "perf_event_open for the whole machine", "kexec_load", "init_module", "finit_module",
		"delete_module", "reboot", "swapon", "acct", "adjtimex", "settimeofday", "bpf", "open_by_handle_at", "change the links of the network",
		"see another's abstract socket", "see another root through process 1", "read addresses in /proc/kallsyms", "read /proc/kcore",
		"open /proc/kmsg", "open /proc/sys/kernel/core_pattern for writing", "open /proc/sysrq-trigger for writing",
		"open /dev/mem for writing", "open /dev/kmsg for writing"}
	return slices.DeleteFunc(tries(), func(t try) bool {
		return !slices.Contains(wanted, t.name) && !strings.HasPrefix(t.name, "be in the host's") && !slices.Contains([]string{"CVE-2019-5736",
			"CVE-2024-21626", "CVE-2020-15257", "CVE-2022-0492"}, t.shape)
	})
}

// build is what a build step tries: to find what was planted elsewhere, to reach what is not its own.
func build(o *options) *Report {
	s := newScene(o)
	r := &Report{Facts: facts()}
	for _, t := range buildTries() {
		r.Attempts = append(r.Attempts, s.attempt(t))
	}
	r.Writable = writable(r.Facts, "/proc/sys", "/sys")
	r.Attempts = append(r.Attempts, writableAttempt(r.Writable, r.Facts))

	look := newSearch(o.markers)
	for _, kv := range o.env {
		name, _, _ := strings.Cut(kv, "=")
		look.text([]byte(kv), "the environment, "+name)
	}
	sockets := walk(o.root, look)
	for _, p := range processes() {
		// The arguments of the kit, and of what started it, name the markers.
		if b := contents(pidFile(p.pid, "cmdline")); !strings.Contains(b, "--marker\x00") {
			look.text([]byte(b), fmt.Sprintf("the arguments of process %d", p.pid))
			look.text([]byte(contents(pidFile(p.pid, "environ"))), fmt.Sprintf("the environment of process %d", p.pid))
		}
	}
	r.Attempts = append(r.Attempts, look.attempts(len(o.markers))...)
	r.Attempts = append(r.Attempts, knock(sockets, o.timeout))
	r.Facts["files"], r.Facts["bytes"] = strconv.Itoa(look.files), strconv.FormatInt(look.bytes, 10)
	r.Facts["addresses"] = addressesHere()
	r.Attempts = append(r.Attempts, tryAll(o)...)
	return r
}

// walk searches all regular files below a directory, and returns the sockets. The kernel's file systems are left out:
// what they hold is the attempts' affair, and some of their files wait or do things when they are read.
func walk(root string, look *search) (sockets []string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case look.cut != "":
			return fs.SkipAll
		case err != nil:
			return nil //nolint:nilerr // what cannot be listed holds nothing for an attacker
		case d.IsDir() && (path == "/proc" || path == "/sys"):
			return fs.SkipDir
		case d.Type()&fs.ModeSocket != 0:
			sockets = append(sockets, path)
		case d.Type().IsRegular():
			look.file(path)
		}
		return nil
	})
	return sockets
}

// contents returns a small file, or nothing.
func contents(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// maxKnocks bounds how many sockets are tried.
const maxKnocks = 256

// knock connects to sockets in the file system, and says nothing: behind one is a program that may do things for whoever
// reaches it.
func knock(sockets []string, patience time.Duration) Attempt {
	a := Attempt{Name: "connect to a socket in the file system"}
	for _, path := range sockets[:min(len(sockets), maxKnocks)] {
		for _, network := range []string{"unix", "unixgram", "unixpacket"} {
			if c, err := net.DialTimeout(network, path, patience); err == nil {
				c.Close()
				return a.with(reached("%s (%s)", path, network))
			}
		}
	}
	if len(sockets) > maxKnocks {
		return a.with(untried("there are %d, of which %d were tried", len(sockets), maxKnocks))
	}
	return a.with(refused("none of %d", len(sockets)))
}

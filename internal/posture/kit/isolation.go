package kit

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// isolation tries everything that ISO-1 promises to refuse.
func isolation(o *options) *Report {
	s := newScene(o)
	// No core file of an attempt that dies is to be left anywhere.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	r := &Report{Facts: facts()}
	for _, t := range tries() {
		r.Attempts = append(r.Attempts, s.attempt(t))
	}
	r.Families = families(r.Facts)
	r.Writable = writable(r.Facts, "/proc", "/sys")
	r.Attempts = append(r.Attempts, writableAttempt(r.Writable, r.Facts))
	if !o.noCalls {
		r.Syscalls = s.systemCalls(r.Facts)
	}
	return r
}

// facts are what a reader of the report wants to know about the place.
func facts() map[string]string {
	f := map[string]string{"pid": strconv.Itoa(os.Getpid()), "uid": strconv.Itoa(os.Geteuid())}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f["kernel"] = unix.ByteSliceToString(u.Release[:])
		f["machine"] = unix.ByteSliceToString(u.Machine[:])
		f["hostname"] = unix.ByteSliceToString(u.Nodename[:])
	}
	for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"} {
		f[key] = status(key)
	}
	f["uid_map"] = strings.Join(strings.Fields(firstBytes("/proc/self/uid_map")), " ")
	f["legacy_tiocsti"] = firstBytes("/proc/sys/dev/tty/legacy_tiocsti")
	f["memfd_exec"] = "no"
	if memoryExec() {
		f["memfd_exec"] = "yes"
	}
	return f
}

// status returns a line of /proc/self/status.
func status(key string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// firstBytes returns the beginning of a small file, or nothing.
func firstBytes(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	return strings.TrimSpace(string(b[:n]))
}

// hasCapability reports whether a capability is effective.
func hasCapability(n int) bool {
	v, err := strconv.ParseUint(status("CapEff"), 16, 64)
	return err == nil && v>>n&1 == 1
}

// mayLoadModules reports whether what is tried could have the kernel load a module, for root on a host that has them. An
// attempt that would do that leaves a trace, and is not tried.
func mayLoadModules() bool {
	_, err := os.Stat("/proc/modules")
	return err == nil && hasCapability(unix.CAP_SYS_MODULE) && firstBytes("/proc/sys/kernel/modules_disabled") != "1"
}

// notWithout is said of what is not tried because a module would be loaded.
const notWithout = "the kernel would load a module for it"

// unlessLoading tries what needs a module only where it is there already, or where none is loaded.
func unlessLoading(module string, f func(*scene) outcome) func(*scene) outcome {
	return func(s *scene) outcome {
		if _, err := os.Stat("/sys/module/" + module); err != nil && mayLoadModules() {
			return untried(notWithout)
		}
		return f(s)
	}
}

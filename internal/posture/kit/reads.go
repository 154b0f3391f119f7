package kit

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// masked are the paths that a hardened instance hides: they tell of the host and of its other tenants, or are the
// kernel's memory. Those of CIS and of the engines' defaults, and what can be read on a host beside them.
func masked() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/proc/config.gz", "/proc/version_signature",
		"/proc/modules", "/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/slabinfo", "/proc/kpageflags",
		"/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security",
		"/sys/devices/system/cpu/vulnerabilities", "/sys/fs/cgroup", "/sys/fs/pstore"}
}

// readTries are about what the host says of itself.
func readTries() []try {
	var out []try
	for _, path := range masked() {
		out = append(out, try{name: "read " + path, run: func(*scene) outcome { return readAny(path) }})
	}
	return append(out,
		// Addresses of the kernel's code are what an exploit needs first. Without the right the file is full of zeros.
		try{name: "read addresses in /proc/kallsyms", run: func(*scene) outcome { return addresses("/proc/kallsyms") }},
		try{name: "read addresses in /proc/iomem", run: func(*scene) outcome { return addresses("/proc/iomem") }},
		try{name: "open /proc/kmsg", run: func(*scene) outcome { return did(openOnly("/proc/kmsg", unix.O_RDONLY)) }},
		try{name: "read /dev/kmsg", run: func(*scene) outcome { return readAny("/dev/kmsg") }},
		// A root that is another's is a way out by its name.
		try{name: "see another root through process 1", run: otherRoot},
	)
}

// readAny reads a byte of a file, or the name of the first entry of a directory. A mask is an empty file or directory.
func readAny(path string) outcome {
	i, err := os.Stat(path)
	if err != nil {
		return refused("%v", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return refused("%v", err)
	}
	defer unix.Close(fd)
	if i.IsDir() {
		names, err := os.ReadDir(path)
		if err != nil || len(names) == 0 {
			return refused("an empty directory")
		}
		return reached("%d entries, such as %s", len(names), names[0].Name())
	}
	// The kernel's log gives whole records only.
	b := make([]byte, 8192)
	if !strings.HasPrefix(path, "/dev/") {
		b = b[:8] // kpageflags gives whole numbers
	}
	n, err := unix.Read(fd, b)
	switch {
	case err != nil:
		return refused("%v", err)
	case n <= 0:
		return refused("an empty file")
	}
	return reached("it can be read")
}

// addresses looks for a line that does not begin with 0.
func addresses(path string) outcome {
	f, err := os.Open(path)
	if err != nil {
		return refused("%v", err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	n, err := f.Read(b)
	if err != nil {
		return refused("%v", err)
	}
	lines := 0
	for line := range strings.SplitSeq(string(b[:n]), "\n") {
		if w := strings.Fields(line); len(w) > 1 {
			lines++
			if strings.Trim(w[0], "0-") != "" {
				return reached("they are there")
			}
		}
	}
	return refused("%d lines, all zero", lines)
}

// otherRoot compares the root directory of process 1 with the own.
func otherRoot(*scene) outcome {
	var own, other unix.Stat_t
	if err := unix.Stat("/", &own); err != nil {
		return untried("%v", err)
	}
	if err := unix.Stat("/proc/1/root/", &other); err != nil {
		return refused("%v", err)
	}
	if own.Dev != other.Dev || own.Ino != other.Ino {
		return reached("it is another directory than the own")
	}
	return refused("it is the own")
}

package containerd

import (
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// User is the id that apps run as inside their user namespace.
const User = 1000

// spec writes the whole OCI spec of a hardened instance. It starts from nothing: a default of the engine's that changes
// with a version cannot open anything here.
func (d *Driver) spec(s driver.Spec) *specs.Spec {
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...)
	dir := s.Dir
	if dir == "" {
		dir = "/"
	}
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: s.Rootfs, Readonly: true},
		Process: &specs.Process{
			Terminal:        s.Streams != nil && s.Streams.Terminal,
			ConsoleSize:     consoleSize(s.Streams),
			User:            specs.User{UID: User, GID: User},
			Args:            s.Args,
			Env:             env,
			Cwd:             dir,
			Capabilities:    &specs.LinuxCapabilities{}, // none in any set
			NoNewPrivileges: true,
			// Open files are bounded by what the supervisor could raise them to; raising them here takes CAP_SYS_RESOURCE.
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE", Hard: sandbox.CoreLimit, Soft: sandbox.CoreLimit}, // a core file would hold the config's values
			},
		},
		Mounts: mounts(s),
		Linux:  d.linux(s),
	}
	spec.Linux.Seccomp = filter()
	if s.Sandbox {
		spec.Annotations = sandboxFlags()
	}
	return spec
}

// sandboxFlags are what gVisor is told beside the spec (runsc/config/flags.go); annotations are stored, and hold no secret. Its own kernel
// keeps the list of system calls, too, so that an app sees the same list everywhere.
func sandboxFlags() map[string]string {
	const flag = "dev.gvisor.flag."
	return map[string]string{
		flag + "oci-seccomp": "true",
		flag + "overlay2":    "none", // the root is read-only, and what may be written is a tmpfs of the sandbox's own
		flag + "host-uds":    "open", // the config's socket is the one socket of the host's that is in there
	}
}

func (d *Driver) linux(s driver.Spec) *specs.Linux {
	period, swappiness := uint64(100_000), uint64(0)
	quota := s.Limits.CPU * int64(period) / 1000
	shares := uint64(max(2, s.Limits.CPU*1024/1000))
	id := []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.UIDBase, Size: 65536}}
	return &specs.Linux{
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
		},
		UIDMappings: id,
		GIDMappings: id,
		CgroupsPath: d.config.Cgroup + "/" + string(s.Instance),
		Sysctl: map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv6.conf.all.disable_ipv6":      "1", // the router carries IPv4; a link-local address would lead nowhere
			"net.ipv6.conf.default.disable_ipv6":  "1",
		},
		Resources: &specs.LinuxResources{
			Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"},
				device("c", 1, 3), device("c", 1, 5), device("c", 1, 7), device("c", 1, 8), device("c", 1, 9),
				device("c", 5, 0), device("c", 5, 2), {Allow: true, Type: "c", Major: ptr(int64(136)), Access: "rwm"}},
			Memory: &specs.LinuxMemory{Limit: &s.Limits.Memory, Swap: &s.Limits.Memory, Swappiness: &swappiness},
			CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares},
			Pids:   &specs.LinuxPids{Limit: &s.Limits.PIDs},
		},
		MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/iomem", "/proc/ioports", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/proc/kallsyms",
			"/proc/config.gz", "/proc/version_signature", "/proc/modules", "/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/slabinfo",
			"/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security",
			"/sys/devices/system/cpu/vulnerabilities", "/sys/fs/cgroup"},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger"},
	}
}

func ptr[T any](v T) *T { return &v }

func device(kind string, major, minor int64) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rwm"}
}

func mounts(s driver.Spec) []specs.Mount {
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// Memory that an app writes here counts against its memory limit, so it can fill nothing but its own.
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=50%"}},
	}
	for _, w := range s.Writable {
		out = append(out, specs.Mount{Destination: path.Clean(w), Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", "mode=0755", "uid=1000", "gid=1000", "size=50%"}})
	}
	for _, m := range s.Mounts {
		o := []string{"bind", "nosuid", "nodev", "noexec"}
		if !m.Writable {
			o = append(o, "ro")
		}
		out = append(out, specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: o})
	}
	return out
}

// Package buildspec describes the container that a builder runs in: one function from a few host paths to an OCI runtime
// spec. The node runs it through containerd, the builder's own tests run it through runc, so both run the same walls.
//
// It promises that whatever follows from the spec alone holds for every builder: a user namespace of its own, a network
// namespace with nothing but loopback, no new privileges, a read-only root, BuildKit's few extra system calls and no
// others. It does no input or output and keeps no state. An attacker who could change it could widen a builder's walls,
// so it belongs to the node's side of the trust boundary, and imports nothing of the builder's.
//
// The order of events matters (ENGINE.md, traps): let the runtime create the container and with it the network
// namespace; then make the proxy's listening socket inside /proc/PID/ns/net; then start. A network namespace that was
// made beforehand belongs to another user namespace, and mounting /sys fails.
package buildspec

import (
	"path"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// Where the builder finds things inside its container. All lie on one small tmpfs, so that the read-only root needs no
// mount points of ours.
const (
	InDir     = "/run/bulwark/in"     // what the job brings, read-only: Src or Import appears in it
	StateDir  = "/run/bulwark/state"  // BuildSetup.State, the app's own cache
	OutputDir = "/run/bulwark/out"    // BuildSetup.Output, a content store
	BasesDir  = "/run/bulwark/bases"  // BuildSetup.Bases, read-only
	CAFile    = "/run/bulwark/ca.pem" // BuildSetup.CA, read-only
	Programs  = "/run/bulwark/bin"    // bulwark-builder and bulwark-static, read-only
	ProxyAddr = "127.0.0.1:3128"      // where the proxy's socket has to listen inside
)

// Names in InDir.
const (
	Src    = "src"        // the measured source tree, BuildJob.Source
	Import = "import.tar" // an OCI archive, BuildJob.Import
)

// IDs is how many user and group ids a builder's user namespace maps: the app's own image may own files by any id of
// 16 bits, and BuildKit's steps need as many again.
const IDs = 131072

// Options are the host's side of a builder: paths on the host, which must be readable by UIDBase, and limits.
type Options struct {
	Rootfs  string   // unpacked builder base; empty when the caller sets Root itself, as containerd does
	UIDBase uint32   // first host id of the app's own range of IDs; must own State and Output
	Args    []string // default: bulwark-builder alone

	Programs string // directory with bulwark-builder and bulwark-static, static binaries of this version
	In       string // directory in which the source appears
	State    string // directory on a real file system (overlayfs works there), kept between an app's builds
	Output   string // empty or kept content store
	Bases    string // OCI layouts of the bases
	CA       string // optional: file with certificate authorities

	Hostname   string // default "builder"
	CgroupPath string
	Memory     int64  // bytes, default 4 GiB; swap is not given
	Pids       int64  // default 1024; threads count
	CPUQuota   int64  // in microseconds per 100 ms, 0 for no limit
	CPUShares  uint64 // weight against instances, default 256 (a quarter of the default)
	// CgroupV1 has the control groups mounted inside: on a v1 host, nested runc does not start without them.
	CgroupV1 bool
}

// Spec returns the whole OCI spec of a builder.
func Spec(o Options) *specs.Spec {
	if o.Args == nil {
		o.Args = []string{Programs + "/bulwark-builder"}
	}
	if o.Hostname == "" {
		o.Hostname = "builder"
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: o.Hostname,
		Process: &specs.Process{
			User:            specs.User{UID: 0, GID: 0},
			Args:            o.Args,
			Cwd:             "/",
			Env:             Env(),
			NoNewPrivileges: true,
			Capabilities:    capabilities(),
			// The number of open files is the starter's: raising it needs a capability that not every node has.
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: sandbox.CoreLimit, Soft: sandbox.CoreLimit}},
		},
		Mounts: Mounts(o),
		Linux: &specs.Linux{
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: o.UIDBase, Size: IDs}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: o.UIDBase, Size: IDs}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			CgroupsPath: o.CgroupPath,
			Resources:   resources(o),
			// Neither MaskedPaths nor ReadonlyPaths: the kernel lets a nested runc mount a fresh /proc for a build step only
			// if the one it sees has nothing mounted over it. What they hide is refused here anyway, for root of a user
			// namespace is nobody to the host's /proc/sys, /proc/kcore and /proc/sysrq-trigger.
		},
	}
	if o.Rootfs != "" {
		s.Root = &specs.Root{Path: o.Rootfs, Readonly: true}
	}
	s.Linux.Seccomp = Seccomp(s)
	return s
}

// Env is the builder's environment: constant, so nothing of the host's leaks in.
func Env() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TMPDIR=" + path.Join(StateDir, "tmp"), "LANG=C.UTF-8",
	}
}

// Mounts returns the builder's mounts.
func Mounts(o Options) []specs.Mount {
	tmpfs := func(at string, opts ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: append([]string{"nosuid", "nodev"}, opts...)}
	}
	bind := func(from, to string, opts ...string) specs.Mount {
		return specs.Mount{Destination: to, Type: "bind", Source: from, Options: append([]string{"rbind", "nosuid", "nodev"}, opts...)}
	}
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		tmpfs("/dev", "strictatime", "mode=755", "size=65536k"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		tmpfs("/dev/shm", "noexec", "mode=1777", "size=65536k"),
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// BuildKit keeps sockets and runc's state in these; the size bounds what a builder can take of memory twice.
		tmpfs("/run", "mode=755", "size=65536k"),
		tmpfs("/tmp", "mode=1777", "size=262144k"),
		tmpfs("/root", "mode=700", "size=65536k"),
		// Without nodev: overlayfs notes a deleted file as a character device 0:0, which a user namespace may make. No other
		// device can be made there. Without noexec and nosuid: build steps run from here, as in any image.
		{Destination: StateDir, Type: "bind", Source: o.State, Options: []string{"rbind"}},
		bind(o.In, InDir, "ro", "noexec"),
		bind(o.Output, OutputDir, "noexec"),
		bind(o.Bases, BasesDir, "ro", "noexec"),
		bind(o.Programs, Programs, "ro"),
	}
	if o.CA != "" {
		m = append(m, bind(o.CA, CAFile, "ro", "noexec"))
	}
	if o.CgroupV1 {
		m = append(m, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	return m
}

// capabilities are Docker's default set, which the steps of a build get in turn, and SYS_ADMIN for BuildKit's mounts.
// All of them count in the builder's own user namespace only.
func capabilities() *specs.LinuxCapabilities {
	c := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE", "CAP_SYS_ADMIN",
	}
	return &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c}
}

func resources(o Options) *specs.LinuxResources {
	memory, pids, shares := o.Memory, o.Pids, o.CPUShares
	if memory == 0 {
		memory = 4 << 30
	}
	if pids == 0 {
		pids = 1024
	}
	if shares == 0 {
		shares = 256
	}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		Pids:   &specs.LinuxPids{Limit: &pids},
		CPU:    &specs.LinuxCPU{Shares: &shares},
		// runc adds the few devices that every container has (null, zero, full, random, urandom, tty, pts) to this.
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	if o.CPUQuota > 0 {
		period := uint64(100_000)
		r.CPU.Quota, r.CPU.Period = &o.CPUQuota, &period
	}
	return r
}

// needed are the system calls that BuildKit and nested runc make and the default profile refuses (found by running; see
// ENGINE.md). bpf, perf_event_open, io_uring, userfaultfd, kexec, modules and the like stay refused.
var needed = []string{
	"mount", "umount", "umount2", "pivot_root", "unshare", "setns", "clone", "clone3", "keyctl", "chroot", "sethostname",
	"setdomainname", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
}

// Seccomp returns containerd's default profile plus what BuildKit needs. s supplies the capabilities.
func Seccomp(s *specs.Spec) *specs.LinuxSeccomp {
	// The default profile opens bpf, perf and more to whoever has SYS_ADMIN, so it is asked for a process without it.
	without := *s.Process
	without.Capabilities = &specs.LinuxCapabilities{Bounding: slices.DeleteFunc(slices.Clone(s.Process.Capabilities.Bounding),
		func(c string) bool { return c == "CAP_SYS_ADMIN" })}
	p := seccomp.DefaultProfile(&specs.Spec{Process: &without, Linux: &specs.Linux{}})
	// Its refusal of clone3 would stand beside our permission; libseccomp takes one action per system call.
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(c specs.LinuxSyscall) bool {
		return c.Action == specs.ActErrno && slices.Equal(c.Names, []string{"clone3"})
	})
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: slices.Clone(needed), Action: specs.ActAllow})
	return p
}

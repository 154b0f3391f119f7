package buildspec

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSpec states what the walls of a builder are, so that none goes by accident.
func TestSpec(t *testing.T) {
	s := Spec(Options{Rootfs: "/rootfs", UIDBase: 1 << 20, Programs: "/programs", In: "/in", State: "/state", Output: "/out", Bases: "/bases", CA: "/ca", CgroupV1: true})
	if !s.Root.Readonly || !s.Process.NoNewPrivileges || s.Process.User.UID != 0 {
		t.Error("the root is writable, or privileges can be gained")
	}
	var kinds []string
	for _, n := range s.Linux.Namespaces {
		kinds = append(kinds, string(n.Type))
		if n.Path != "" {
			t.Errorf("the namespace %s is shared", n.Type)
		}
	}
	slices.Sort(kinds)
	if got := strings.Join(kinds, " "); got != "cgroup ipc mount network pid user uts" {
		t.Errorf("namespaces %s", got)
	}
	if m := s.Linux.UIDMappings; len(m) != 1 || m[0].HostID != 1<<20 || m[0].Size != IDs || m[0].ContainerID != 0 {
		t.Errorf("ids %v", m)
	}
	if len(s.Process.Capabilities.Inheritable) > 0 || len(s.Process.Capabilities.Ambient) > 0 || slices.Contains(s.Process.Capabilities.Bounding, "CAP_NET_ADMIN") {
		t.Errorf("capabilities %+v", s.Process.Capabilities)
	}
	for _, m := range s.Mounts {
		readonly := slices.Contains(m.Options, "ro")
		switch m.Destination {
		case InDir, BasesDir, CAFile, Programs, "/sys", "/sys/fs/cgroup":
			if !readonly {
				t.Errorf("%s is writable", m.Destination)
			}
		}
		if m.Type == "bind" && m.Destination != StateDir && !slices.Contains(m.Options, "nodev") {
			t.Errorf("%s takes devices", m.Destination)
		}
		if m.Type == "tmpfs" && !slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "size=") }) {
			t.Errorf("%s has no size", m.Destination)
		}
	}
	if r := s.Linux.Resources; *r.Memory.Limit != 4<<30 || *r.Memory.Swap != 4<<30 || *r.Pids.Limit != 1024 || r.Devices[0].Allow {
		t.Errorf("resources %+v", r)
	}
}

// TestSeccomp checks what the profile lets through without a condition.
func TestSeccomp(t *testing.T) {
	p := Spec(Options{}).Linux.Seccomp
	if p.DefaultAction != specs.ActErrno {
		t.Errorf("default action %s", p.DefaultAction)
	}
	allowed := map[string]bool{}
	for _, c := range p.Syscalls {
		for _, n := range c.Names {
			if c.Action == specs.ActAllow {
				allowed[n] = true
			} else if n == "clone3" {
				t.Error("clone3 is refused and allowed")
			}
		}
	}
	for _, n := range needed {
		if !allowed[n] {
			t.Errorf("%s is refused", n)
		}
	}
	for _, n := range strings.Fields("bpf perf_event_open io_uring_setup io_uring_enter userfaultfd kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at reboot swapon swapoff acct quotactl syslog lookup_dcookie fanotify_init add_key request_key ioperm iopl settimeofday clock_settime") {
		if allowed[n] {
			t.Errorf("%s is allowed", n)
		}
	}
}

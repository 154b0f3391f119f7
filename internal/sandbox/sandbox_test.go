package sandbox

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// run interprets a filter as the kernel would, for one system call.
func run(t *testing.T, prog []unix.SockFilter, arch uint32, call uintptr, args ...uint64) Action {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offsetCall:], uint32(call))
	binary.LittleEndian.PutUint32(data[offsetArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[offsetArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		i := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= i.K)
		case unix.BPF_RET | unix.BPF_K:
			return Action(i.K)
		default:
			t.Fatalf("instruction %+v", i)
		}
	}
	t.Fatal("the program ends without a verdict")
	return 0
}

func TestFilter(t *testing.T) {
	rules := append(Hostile(), Rule{Call: unix.SYS_SETNS, Then: Allow, When: []Test{{Arg: 1, Mask: ^uint32(0), Value: unix.CLONE_NEWNET}, {Arg: 0, Mask: 1, Value: 1}}})
	prog, err := Compile(append(append(rules, Serving()...), Runtime()...))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		call uintptr
		args []uint64
		want Action
	}{
		"read":                    {unix.SYS_READ, nil, Allow},
		"execve":                  {unix.SYS_EXECVE, nil, Kill},
		"mount":                   {unix.SYS_MOUNT, nil, Kill},
		"bpf":                     {unix.SYS_BPF, nil, Kill},
		"socket":                  {unix.SYS_SOCKET, []uint64{unix.AF_INET}, Refuse},
		"connect":                 {unix.SYS_CONNECT, nil, Refuse},
		"bind":                    {unix.SYS_BIND, nil, Refuse},
		"accept4":                 {unix.SYS_ACCEPT4, nil, Allow},
		"open to read":            {unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDONLY | unix.O_CLOEXEC}, Refuse},
		"open to write":           {unix.SYS_OPENAT, []uint64{0, 0, unix.O_WRONLY}, Kill},
		"open to read and write":  {unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDWR | unix.O_CLOEXEC}, Kill},
		"create":                  {unix.SYS_OPENAT, []uint64{0, 0, unix.O_CREAT}, Kill},
		"thread":                  {unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_THREAD}, Allow},
		"fork":                    {unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, Refuse},
		"thread in a new space":   {unix.SYS_CLONE, []uint64{unix.CLONE_THREAD | unix.CLONE_NEWUSER}, Refuse},
		"clone3":                  {unix.SYS_CLONE3, nil, Absent},
		"memory":                  {unix.SYS_MMAP, []uint64{0, 0, unix.PROT_READ | unix.PROT_WRITE}, Allow},
		"code":                    {unix.SYS_MMAP, []uint64{0, 0, unix.PROT_READ | unix.PROT_EXEC}, Refuse},
		"memory into code":        {unix.SYS_MPROTECT, []uint64{0, 0, unix.PROT_EXEC}, Refuse},
		"signal to another":       {unix.SYS_TGKILL, []uint64{1}, Refuse},
		"kill":                    {unix.SYS_KILL, []uint64{1}, Refuse},
		"setns, both tests":       {unix.SYS_SETNS, []uint64{3, unix.CLONE_NEWNET}, Allow},
		"setns, first test only":  {unix.SYS_SETNS, []uint64{4, unix.CLONE_NEWNET}, Refuse},
		"setns, second test only": {unix.SYS_SETNS, []uint64{3, unix.CLONE_NEWNS}, Refuse},
		"setns, high half":        {unix.SYS_SETNS, []uint64{3, unix.CLONE_NEWNET | 1<<40}, Allow}, // the kernel takes an int
		"ioctl":                   {unix.SYS_IOCTL, nil, Refuse},
		"unknown call":            {999, nil, Refuse},
		"foreign numbering":       {0x40000000 | unix.SYS_READ, nil, Kill},
	} {
		if got := run(t, prog, auditArch, c.call, c.args...); got != c.want {
			t.Errorf("%s: %x, want %x", name, got, c.want)
		}
	}
	if got := run(t, prog, auditArch+1, unix.SYS_READ); got != Kill {
		t.Errorf("another architecture: %x", got)
	}
	t.Logf("%d instructions", len(prog))
}

func TestTooManyTests(t *testing.T) {
	if _, err := Compile([]Rule{{When: make([]Test, 7)}}); err == nil {
		t.Error("no error")
	}
}

func TestRulesetFollowsTheKernel(t *testing.T) {
	if a := ruleset(1, Network{}); a.Handled_access_fs != 1<<13-1 || a.Handled_access_net != 0 || a.Scoped != 0 {
		t.Errorf("%+v", a)
	}
	if a := ruleset(7, Network{Connect: true}); a.Handled_access_net != unix.LANDLOCK_ACCESS_NET_BIND_TCP || a.Scoped == 0 || a.Handled_access_fs != 1<<16-1 {
		t.Errorf("%+v", a)
	}
}

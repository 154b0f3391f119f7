package kit

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCallNames(t *testing.T) {
	names := strings.Fields(callNames)
	for nr, name := range map[uintptr]string{unix.SYS_READ: "read", unix.SYS_PTRACE: "ptrace", unix.SYS_CLONE3: "clone3", unix.SYS_BPF: "bpf",
		unix.SYS_MSEAL: "mseal", unix.SYS_PIDFD_GETFD: "pidfd_getfd", unix.SYS_EXIT_GROUP: "exit_group"} {
		if int(nr) >= len(names) || names[nr] != name {
			t.Errorf("%d is not %s", nr, name)
		}
	}
	if len(names) > maxCall {
		t.Errorf("%d names, and %d calls are made", len(names), maxCall)
	}
}

// A filter is seen for what it is, by each of the two means.
func TestFilteredSystemCalls(t *testing.T) {
	all := made(t)
	for _, name := range []string{"read", "ptrace", "bpf", "mount", "clone", "clone3", "exit_group", "vhangup", "sync", "setns", "futex", "modify_ldt"} {
		if !slices.Contains(all, name) && (name != "modify_ldt" || archModifyLDT < maxCall) {
			t.Errorf("%s does not lead to the kernel, without a filter", name)
		}
	}
	few := made(t, "ptrace", "bpf", "vhangup", "clone3?")
	var gone []string
	for _, name := range all {
		if !slices.Contains(few, name) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	if got := strings.Join(gone, " "); got != "bpf clone3 ptrace vhangup" {
		t.Errorf("the filter refuses bpf, clone3, ptrace and vhangup; found was %q", got)
	}
	// Where no second filter can be put on, the calls themselves tell; what must not be called counts as reachable.
	few = made(t, "ptrace", "bpf", "vhangup", "seccomp", "prctl", "clone3?")
	for name, want := range map[string]bool{"ptrace": false, "bpf": false, "seccomp": false, "prctl": false, "clone3": false, "vhangup": true, "read": true, "sync": true} {
		if slices.Contains(few, name) != want {
			t.Errorf("%s: want %t, of %d calls", name, want, len(few))
		}
	}
}

func made(t *testing.T, refuse ...string) []string {
	t.Helper()
	var o outcome
	if err := json.Unmarshal(onStage(t, append([]string{"filtered"}, refuse...)...), &o); err != nil || !o.Reached {
		t.Fatalf("%v: %+v", err, o)
	}
	how, list, _ := strings.Cut(o.Detail, ": ")
	t.Log(how, len(strings.Fields(list)))
	return strings.Fields(list)
}

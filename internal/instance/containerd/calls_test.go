package containerd

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A call in two lists would be answered by whichever rule libseccomp writes first.
func TestEachCallHasOneAnswer(t *testing.T) {
	seen := map[string]int{}
	for i, rule := range filter().Syscalls {
		for _, name := range rule.Names {
			if at, twice := seen[name]; twice && (len(rule.Args) == 0 || rule.Action != specs.ActAllow) {
				t.Errorf("%s is in rule %d and in rule %d", name, at, i)
			}
			seen[name] = i
		}
	}
	if n := len(slices.Concat(allowed...)); n > 150 {
		t.Errorf("%d calls: docs/adr/0015-own-list-of-calls.md asks which other can go", n)
	}
	for _, name := range []string{"ptrace", "bpf", "io_uring_setup", "keyctl", "userfaultfd", "mount", "unshare", "setns", "perf_event_open", "process_vm_readv",
		"name_to_handle_at", "memfd_secret", "modify_ldt", "personality", "clone3", "splice", "init_module", "kexec_load"} {
		if slices.Contains(slices.Concat(allowed...), name) {
			t.Errorf("%s is allowed", name)
		}
	}
}

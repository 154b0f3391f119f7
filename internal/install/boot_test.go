package install

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

func TestBootedForgetsContainersOfBefore(t *testing.T) {
	inst := create(t, options(t))
	// What runc leaves when the power goes away: the name is taken, and the state is empty.
	taken := filepath.Join(inst.RunDir(), "runc", "bulwark", "bld_1", "state.json")
	bundle := filepath.Join(inst.ContainerdDir(), "state", "io.containerd.runtime.v2.task", "bulwark", "bld_1", "address")
	meta := filepath.Join(inst.ContainerdDir(), "root", "meta.db")
	root := filepath.Join(inst.RunDir(), "rootfs", "bld_1")
	leave := func() {
		t.Helper()
		for _, path := range []string{taken, bundle, meta} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(root, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	there := func(when string, want bool, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if _, err := os.Stat(path); (err == nil) != want {
				t.Errorf("%s: %s: %v", when, path, err)
			}
		}
	}
	leave()
	for _, step := range []struct {
		when, boot string
		left       bool
	}{
		{"an earlier version ran until now", "one", true},
		{"the supervisor was started again", "one", true},
		{"the machine was booted", "two", false},
		{"a start after that", "two", false},
	} {
		if err := inst.Booted(step.boot); err != nil {
			t.Fatal(step.when, err)
		}
		there(step.when, step.left, taken, bundle, root)
		there(step.when, true, meta)
	}
	leave()
	if err := inst.Booted("two"); err != nil {
		t.Fatal(err)
	}
	there("containers run", true, taken, bundle, root)

	// What is mounted would be emptied.
	if err := unix.Mount("none", root, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(root, "file")
	err := os.WriteFile(inside, nil, 0o600)
	booted := inst.Booted("three")
	there("something is mounted", true, inside)
	if err = errors.Join(err, unix.Unmount(root, 0)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, booted, bulwark.KindConflict)
	if err := inst.Booted("three"); err != nil {
		t.Fatal(err)
	}
	there("it was unmounted", false, taken, bundle, root)
}

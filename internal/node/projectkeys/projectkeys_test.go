package projectkeys_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
)

const project = bulwark.FirstProject

func open(t *testing.T) (dir string, spare *age.HybridIdentity, r *projectkeys.Ring) {
	t.Helper()
	spare, err := age.GenerateHybridIdentity()
	ok(t, err)
	dir = t.TempDir()
	return dir, spare, projectkeys.Open(dir, spare.Recipient())
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// What was made is there for a process that comes after, for root alone, and its copy opens with the recovery key.
func TestMake(t *testing.T) {
	dir, spare, r := open(t)
	first, err := r.Make(project, 1, nil)
	ok(t, err)
	second, err := r.Make(project, 2, first)
	ok(t, err)
	if bytes.Equal(first.Public(), second.Public()) || first.ValueDigest("A", nil) != second.ValueDigest("A", nil) {
		t.Error("the second is no key of its own that gives the same digests")
	}
	again := projectkeys.Open(dir, spare.Recipient())
	for version, want := range map[uint64][]byte{1: first.Public(), 2: second.Public()} {
		k, err := again.Key(project, version)
		ok(t, err)
		made, err := again.Make(project, version, nil) // it is the one that is there
		ok(t, err)
		if !bytes.Equal(k.Public(), want) || !bytes.Equal(made.Public(), want) || k.ValueDigest("A", nil) != first.ValueDigest("A", nil) {
			t.Errorf("version %d is another", version)
		}
	}
	for _, n := range names(t, dir) {
		path := filepath.Join(dir, n)
		st, err := os.Stat(path)
		ok(t, err)
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", n, st.Mode())
		}
		if filepath.Ext(n) != ".age" {
			continue
		}
		f, err := os.ReadFile(path)
		ok(t, err)
		plain, err := age.Decrypt(bytes.NewReader(f), spare)
		ok(t, err)
		b, err := io.ReadAll(plain)
		ok(t, err)
		key, err := os.ReadFile(path[:len(path)-len(".age")])
		ok(t, err)
		if !bytes.Equal(b, key) {
			t.Errorf("%s is no copy", n)
		}
	}
	if _, err := again.Key(project, 3); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("%v", err)
	}
}

// Retire leaves one version of each project that it is told of, and nothing else of it; what is not a key stays.
func TestRetire(t *testing.T) {
	dir, _, r := open(t)
	other := bulwark.NewProjectID()
	k, err := r.Make(project, 1, nil)
	ok(t, err)
	for v := uint64(2); v < 5; v++ {
		_, err = r.Make(project, v, k)
		ok(t, err)
	}
	_, err = r.Make(other, 1, nil)
	ok(t, err)
	rest := []string{"node.pem", "recovery.pub", "ca.pem", ".tmp-node.pem-1", string(project), "prj_x.key"}
	for _, n := range append(rest, ".tmp-"+string(project)+".5.key-77") {
		ok(t, os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600))
	}
	link, target := filepath.Join(dir, string(project)+".6.key"), filepath.Join(t.TempDir(), "target")
	ok(t, os.WriteFile(target, []byte("somebody's"), 0o600))
	ok(t, os.Symlink(target, link))
	if err := r.Retire(map[bulwark.ProjectID]uint64{project: 9}); err == nil {
		t.Error("all versions went, and the one to keep is not there")
	}
	if n := len(names(t, dir)); n != 18 {
		t.Errorf("%d files are left", n)
	}
	ok(t, r.Retire(map[bulwark.ProjectID]uint64{project: 3}))
	if b, err := os.ReadFile(target); err != nil || string(b) != "somebody's" {
		t.Errorf("a link was written through: %q, %v", b, err)
	}
	ok(t, r.Retire(map[bulwark.ProjectID]uint64{project: 3}))
	want := append(slices.Clone(rest), string(project)+".3.key", string(project)+".3.key.age", string(other)+".key", string(other)+".key.age")
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, v := range []uint64{1, 2, 4} {
		if _, err := r.Key(project, v); err == nil {
			t.Errorf("version %d is still known", v)
		}
	}
}

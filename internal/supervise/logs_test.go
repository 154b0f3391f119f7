package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestRotateLosesNothingAndIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	f, err := openLog(path) // as a process has it, all the time
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const limit = 64 << 10
	var all []byte
	for n := range 20000 {
		line := fmt.Appendf(nil, "line %d\n", n)
		all = append(all, line...)
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			if err := rotate(path, limit); err != nil {
				t.Fatal(err)
			}
		}
	}
	var kept []byte
	for _, name := range []string{path + ".2", path + ".1", path} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > limit+8<<10 {
			t.Errorf("%s has %d bytes", filepath.Base(name), len(b))
		}
		kept = append(kept, b...)
	}
	if !bytes.HasSuffix(all, kept) || len(kept) < limit {
		t.Errorf("%d of %d bytes were kept, or not in order", len(kept), len(all))
	}
	left, _ := filepath.Glob(path + "*")
	if len(left) != 3 {
		t.Errorf("files: %q", left)
	}
}

func TestRotateRefusesALink(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "x.log")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := rotate(link, 10); err == nil {
		t.Error("a link was rotated")
	}
	if _, err := openLog(link); err == nil {
		t.Error("a link was opened")
	}
}

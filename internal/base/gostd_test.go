package base

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Two makings of the same cache, an hour apart, make the same files; what the go command notes for itself stays out.
func TestGoCacheIsTheSameEachTime(t *testing.T) {
	entry := func(at int64) string {
		return fmt.Sprintf("v1 %s %s %20d %20d\n", strings.Repeat("a", 64), strings.Repeat("b", 64), 5, at)
	}
	var sums []string
	for _, at := range []int64{1_700_000_000_000_000_000, 1_700_003_600_000_000_000} {
		dir := t.TempDir()
		for name, text := range map[string]string{"aa/x-a": entry(at), "bb/y-d": "bytes", "trim.txt": fmt.Sprint(at), "README": "x"} {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		made := tree{}
		if err := addGoCache(made, dir); err != nil {
			t.Fatal(err)
		}
		if made[goStd+"/trim.txt"] != nil || made[goStd+"/README"] != nil {
			t.Error("it has more than the entries")
		}
		text, err := made.bytes(goStd + "/aa/x-a")
		if err != nil {
			t.Fatal(err)
		}
		if len(text) != len(entry(at)) {
			t.Errorf("an entry has %d bytes, not %d: the go command would not read it", len(text), len(entry(at)))
		}
		sums = append(sums, string(text))
	}
	if sums[0] != sums[1] {
		t.Errorf("%q is not %q", sums[0], sums[1])
	}
}

func TestGoCacheOfAnotherForm(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x-a"), []byte("v2 something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := addGoCache(tree{}, dir); err == nil {
		t.Error("it was taken")
	}
}

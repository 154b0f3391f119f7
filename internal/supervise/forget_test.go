package supervise

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestForget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w, err := openLog(path) // as a process has it, all the time
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	long := strings.Repeat("secret ", forgetLine)
	for _, s := range []string{"a secret\n", "nothing\n", long + "\n", "\n", "b secret\n", "c secr"} {
		if _, err := w.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	blank := func(line []byte, _ time.Time) bool {
		i := bytes.Index(line, []byte("secret\n"))
		if i < 0 {
			return false
		}
		copy(line[i:], "------")
		return true
	}
	if err := forget(path, blank, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("et\n"); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	if want := "a ------\nnothing\n" + long + "\n\nb ------\nc secret\n"; string(got) != want {
		t.Errorf("%d bytes, want %d: %.40q", len(got), len(want), got)
	}
	if err := forget(path, blank, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got, _ = os.ReadFile(path); !bytes.HasSuffix(got, []byte("c ------\n")) {
		t.Errorf("%.40q", got[len(got)-40:])
	}
	// What a hook makes longer or shorter is not written.
	if err := forget(filepath.Join(t.TempDir(), "none"), blank, time.Now()); err != nil {
		t.Error("a log that is not there:", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := forget(link, blank, time.Now()); err == nil {
		t.Error("a link was followed")
	}
}

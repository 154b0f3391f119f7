package kit

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A planted marker is found in every form, wherever it lies; and none is found that is not there.
func TestMarkers(t *testing.T) {
	marker := []byte("marker-of-the-test-\x00\xff\xfe-7f3a9b")
	other := []byte("another-marker-that-nobody-planted")
	filler := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }
	around := func(b []byte) []byte { return append(append(filler(1<<10), b...), filler(1<<10)...) }
	forms := map[string][]byte{
		"plain":                  around(marker),
		"at the beginning":       marker,
		"over a window's border": append(append(filler(1<<20-16), marker...), filler(1<<20)...),
		"far":                    append(filler(5<<20+32), marker...),
		"hex":                    around([]byte(hex.EncodeToString(marker))),
		"upper hex":              around([]byte(strings.ToUpper(hex.EncodeToString(marker)))),
		"gzip":                   zipped(t, around(marker)),
		"gzip in a file":         around(zipped(t, around(marker))),
		"gzip over a border":     append(append(filler(1<<20-16), zipped(t, around(marker))...), filler(64)...),
		"gzip of gzip":           zipped(t, around(zipped(t, around(marker)))),
		"gzip of base64":         zipped(t, around([]byte(base64.StdEncoding.EncodeToString(marker)))),
		"gzip of much":           zipped(t, append(append(filler(piece-16), marker...), filler(piece)...)),
		"gzip that breaks off":   zipped(t, append(marker, filler(1<<16)...))[:60],
	}
	for shift := range 4 {
		forms[fmt.Sprintf("base64 %d", shift)] = []byte(base64.StdEncoding.EncodeToString(around(append(filler(0), append([]byte("abc")[:shift%4], marker...)...))))
		forms[fmt.Sprintf("url base64 %d", shift)] = []byte(base64.URLEncoding.EncodeToString(append(bytes.Repeat([]byte("x"), shift), marker...)))
	}
	for name, b := range forms {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a/b/file"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		look := newSearch([][]byte{marker, other})
		walk(dir, look)
		got := look.attempts(2)
		if !got[0].Reached || !strings.Contains(got[0].Detail, "a/b/file") {
			t.Errorf("%s: %+v", name, got[0])
		}
		if got[1].Reached || got[1].Untried {
			t.Errorf("%s, what is not there: %+v", name, got[1])
		}
	}
}

// A search that was cut short says of nothing that it is absent.
func TestMarkersCutShort(t *testing.T) {
	look := newSearch([][]byte{[]byte("a marker that is absent")})
	look.end = time.Now().Add(-time.Second)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	walk(dir, look)
	if a := look.attempts(1)[0]; a.Reached || !a.Untried {
		t.Errorf("%+v", a)
	}
}

func TestKnock(t *testing.T) {
	dir := t.TempDir()
	if a := knock(walk(dir, newSearch(nil)), time.Second); a.Reached {
		t.Errorf("no socket: %+v", a)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a := knock(walk(dir, newSearch(nil)), time.Second); !a.Reached {
		t.Errorf("a socket: %+v", a)
	}
}

// The whole subcommand, as root of throw-away namespaces: what was planted in a file and in the environment is found.
func TestBuild(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BULWARK_KIT_PLANTED", hex.EncodeToString([]byte("planted in the environment")))
	if err := os.WriteFile(filepath.Join(dir, "file"), zipped(t, []byte("planted in a file")), 0o600); err != nil {
		t.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	r, _ := report(t, onStage(t, "run", "build", "--root", dir, "--marker", enc([]byte("planted in the environment")),
		"--marker", enc([]byte("planted in a file")), "--marker", enc([]byte("planted nowhere")), "--try", "nobody=tcp:127.0.0.1:1"))
	want := map[string]bool{"find marker 1": true, "find marker 2": true, "find marker 3": false, "nobody": false, "connect to a socket in the file system": false,
		"be a user of the host's": true, "mount debugfs": true}
	for _, a := range r.Attempts {
		if w, ok := want[a.Name]; ok && (a.Reached != w || a.Untried) {
			t.Errorf("%+v", a)
		}
		delete(want, a.Name)
	}
	if len(want) > 0 {
		t.Errorf("not in the report: %v", want)
	}
	if len(buildTries()) < 35 {
		t.Errorf("only %d attempts: a name in the list is no attempt's any more", len(buildTries()))
	}
}

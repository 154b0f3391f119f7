package certkeep

import (
	"bytes"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

func open(t *testing.T, dir string, key byte) *Keeper {
	t.Helper()
	k, err := Open(t.Context(), filepath.Join(dir, "certs.db"), bytes.Repeat([]byte{key}, 32))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func ask(k *Keeper, method, path string, q url.Values, body string) (int, string) {
	w := httptest.NewRecorder()
	k.Handler().ServeHTTP(w, httptest.NewRequest(method, path+"?"+q.Encode(), strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// What is kept comes back after a restart, in the folder in which it was put, and lies on the disk as noise.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir, 1)
	secret := "-----BEGIN PRIVATE KEY-----MARKER"
	for _, key := range []string{"accounts/ca/account.key", "certificates/ca/a.example.org/a.example.org.key", "certificates/ca/a.example.org.evil/x", "certificates/ca/a.example.org"} {
		if code, said := ask(k, "PUT", "/kept", url.Values{"key": {key}}, secret+key); code != 200 {
			t.Fatalf("%s: %d %s", key, code, said)
		}
	}
	k.Close()
	k = open(t, dir, 1)
	if code, said := ask(k, "GET", "/kept", url.Values{"key": {"accounts/ca/account.key"}}, ""); code != 200 || said != secret+"accounts/ca/account.key" {
		t.Errorf("%d %q", code, said)
	}
	for below, want := range map[string]int{"": 4, "accounts": 1, "certificates/ca/a.example.org": 2, "certificates/ca/a.example.org/": 2, "certificates": 3, "certificat": 0, "nothing": 0} {
		if _, said := ask(k, "GET", "/keys", url.Values{"below": {below}}, ""); strings.Count(said, `"key"`) != want {
			t.Errorf("below %q: %s", below, said)
		}
	}
	if code, _ := ask(k, "DELETE", "/kept", url.Values{"key": {"certificates/ca/a.example.org"}}, ""); code != 200 {
		t.Error(code)
	}
	if _, said := ask(k, "GET", "/keys", nil, ""); strings.Count(said, `"key"`) != 2 {
		t.Errorf("left: %s", said)
	}
	if code, _ := ask(k, "GET", "/kept", url.Values{"key": {"certificates/ca/a.example.org"}}, ""); code != 404 {
		t.Error(code)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte("MARKER")) || bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s has a key in the clear", f)
		}
	}
}

// Another key reads nothing, and a value that was put in another's place is no value.
func TestSealed(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir, 1)
	for _, key := range []string{"a", "b"} {
		if err := k.store(t.Context(), key, []byte("of "+key)); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, dir, 2)
	if b, err := other.load(t.Context(), "a"); err == nil {
		t.Errorf("another key reads %q", b)
	}
	var sealed []byte
	if err := k.db.Reader().QueryRow(`SELECT sealed FROM kept WHERE key = 'b'`).Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		err := k.db.Tx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`UPDATE kept SET sealed = ? WHERE key = 'a'`, b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(sealed)
	if b, err := k.load(t.Context(), "a"); err == nil {
		t.Errorf("in the place of another there is %q", b)
	}
	put(sealed[:5])
	if _, err := k.load(t.Context(), "a"); err == nil {
		t.Error("a value that was cut off is taken")
	}
}

// What is not well formed, and what is too large, is refused.
func TestKeptRefuses(t *testing.T) {
	k := open(t, t.TempDir(), 1)
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\x00", strings.Repeat("x", certsapi.MaxKey+1)} {
		if code, _ := ask(k, "PUT", "/kept", url.Values{"key": {key}}, "x"); code != http.StatusBadRequest {
			t.Errorf("%q: %d", key, code)
		}
	}
	if code, _ := ask(k, "PUT", "/kept", url.Values{"key": {"a"}}, strings.Repeat("x", certsapi.MaxValue+1)); code == 200 {
		t.Error("a value of any size is kept")
	}
	if code, _ := ask(k, "PUT", "/status", nil, "{"); code != http.StatusBadRequest {
		t.Error(code)
	}
}

// Who waits for orders is told when they change, and when nobody knows any yet.
func TestOrders(t *testing.T) {
	k := open(t, t.TempDir(), 1)
	type answer struct {
		o  certsapi.Orders
		ok bool
	}
	wait := func(have string) <-chan answer {
		c := make(chan answer, 1)
		go func() { o, ok := k.wait(t.Context(), have); c <- answer{o, ok} }()
		return c
	}
	first := wait("")
	select {
	case a := <-first:
		t.Fatalf("orders that nobody gave: %+v", a)
	case <-time.After(50 * time.Millisecond):
	}
	if err := k.Order(certsapi.Orders{Hosts: []bulwark.HostName{"b.example.org", "a.example.org"}}); err != nil {
		t.Fatal(err)
	}
	a := <-first
	if !a.ok || len(a.o.Hosts) != 2 || a.o.Version == "" {
		t.Fatalf("%+v", a)
	}
	second := wait(a.o.Version)
	if err := k.Order(certsapi.Orders{Hosts: []bulwark.HostName{"a.example.org", "b.example.org"}}); err != nil { // the same
		t.Fatal(err)
	}
	select {
	case b := <-second:
		t.Fatalf("nothing changed: %+v", b)
	case <-time.After(50 * time.Millisecond):
	}
	if err := k.Order(certsapi.Orders{}); err != nil {
		t.Fatal(err)
	}
	if b := <-second; !b.ok || len(b.o.Hosts) != 0 || b.o.Version == a.o.Version {
		t.Fatalf("%+v", b)
	}
	if code, _ := ask(k, "PUT", "/status", nil, `[{"host":"a.example.org","stage":"issued"}]`); code != 200 || len(k.Status()) != 1 || k.Status()[0].Stage != certsapi.Issued {
		t.Errorf("%d %+v", code, k.Status())
	}
}

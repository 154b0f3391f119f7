package edge

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Apps that know nothing of security headers get 100 and more from MDN's HTTP Observatory, which looks at them from outside. A page with scripts needs a policy, which only its
// people can choose; without one it gets 80.
func TestObservatory(t *testing.T) {
	dir := filepath.Join(os.Getenv("BULWARK_TEST_TOOLS"), "..", "observatory")
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		t.Fatalf("there is no Observatory: `make test-tools` fetches it, `make test` says where by BULWARK_TEST_TOOLS: %v", err)
	}
	r := newRig(t, nil)
	ca := newAuthority(t)
	if err := r.issued.PutCertificates(t.Context(), []bulwark.Certificate{ca.issue(t, "", "localhost")}); err != nil {
		t.Fatal(err)
	}
	answers := map[string][2]string{
		"/text": {"text/plain", "hello"}, "/json": {"application/json", "{}"}, "/page": {"text/html; charset=utf-8", "<!doctype html><title>Shop</title><h1>Hello</h1>"},
		"/script": {"text/html", "<!doctype html><title>Shop</title><script>let a</script>"},
	}
	app := r.serve("localhost", backend(t, func(w http.ResponseWriter, q *http.Request) {
		a, ok := answers[q.URL.Path]
		if !ok {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Type", a[0])
		io.WriteString(w, a[1])
	}))
	root := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	scan := func(path string) int {
		t.Helper()
		_, plain, _ := net.SplitHostPort(r.plain)
		_, https, _ := net.SplitHostPort(r.addr)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "node", "scan.mjs", "localhost", plain, https, path)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "NODE_EXTRA_CA_CERTS="+root)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var found struct {
			Score int
			Tests map[string]struct {
				Result string
				Points int
			}
		}
		if err := json.Unmarshal(out, &found); err != nil || len(found.Tests) < 8 {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("%s: %d, %v", path, found.Score, found.Tests)
		return found.Score
	}
	for _, path := range []string{"/text", "/json", "/page"} {
		if score := scan(path); score < 100 {
			t.Errorf("%s: %d", path, score)
		}
	}
	if score := scan("/script"); score != 80 {
		t.Errorf("a page with a script gets %d: say so in docs/shield.md", score)
	}
	r.shield(app, bulwark.Shield{CSP: "default-src 'self'"})
	if score := scan("/script"); score < 100 {
		t.Errorf("with a policy: %d", score)
	}
}

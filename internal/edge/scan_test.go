package edge

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// accepted are findings of the scanner that have nothing to do with how the edge speaks TLS, each with the reason.
var accepted = map[string]string{
	"cert_revocation": "the test's own authority has neither a list nor a responder",
}

// An independent scanner finds nothing of LOW or worse in how the edge speaks TLS. It asks nobody but the edge.
func TestScan(t *testing.T) {
	scanner, err := exec.LookPath("testssl")
	if err != nil {
		t.Fatalf("there is no testssl: `make test-deps` installs it: %v", err)
	}
	r := newRig(t, nil)
	ca := newAuthority(t)
	r.trust(ca)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	dir := t.TempDir()
	out := filepath.Join(dir, "found.json")
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, scanner, "--nodns", "none", "--ip", "127.0.0.1", "--warnings", "off", "--color", "0", "--openssl-timeout", "5", "--add-ca", roots,
		"--jsonfile", out, "a.example.org:"+port)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "TERM=dumb")
	said, err := cmd.CombinedOutput()
	b, rerr := os.ReadFile(out)
	if rerr != nil {
		t.Fatalf("%v: %v\n%s", err, rerr, said)
	}
	var found []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(b, &found); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, f := range found {
		bad := slices.Contains([]string{"LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"}, f.Severity)
		if _, ok := accepted[f.ID]; bad && !ok {
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	if len(found) < 60 {
		t.Errorf("it looked at %d things alone:\n%s", len(found), said)
	}
	if !strings.Contains(string(b), "TLS1_3") {
		t.Error("it did not look at TLS 1.3")
	}
	if testing.Verbose() {
		t.Logf("%s", said)
	}
}

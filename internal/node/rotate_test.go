package node

import (
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A node that is started makes the keys that it needs, says which they are, replaces those that are too old, and leaves
// nothing of them; its word on itself repeats what it is asked, so that an old one is known.
func TestNodeRotates(t *testing.T) {
	dir := t.TempDir()
	k, err := openKeys(filepath.Join(dir, "keys"), filepath.Join(dir, "recovery.txt"))
	must(t, err)
	l, err := ledger.Open(t.Context(), ledger.Config{Path: filepath.Join(dir, "ledger.db"), Key: k.node, Keys: k.projects, Domain: "apps.example.org"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	n := &Node{config: Config{Domain: "apps.example.org", Log: slog.New(slog.DiscardHandler), SSHHostKey: filepath.Join(dir, "none"), PostureKey: filepath.Join(dir, "none")}, keys: k, ledger: l}
	n.authority, err = openAuthority(filepath.Join(dir, "keys"), "apps.example.org")
	must(t, err)
	info := func(challenge string) (statement.Info, int) {
		t.Helper()
		body, _ := json.Marshal(nodeapi.AskInfo{Challenge: challenge})
		w := httptest.NewRecorder()
		n.routes().ServeHTTP(w, httptest.NewRequest("POST", "/v1/info", strings.NewReader(string(body))))
		var out nodeapi.Info
		var i statement.Info
		if w.Code == 200 {
			must(t, json.Unmarshal(w.Body.Bytes(), &out))
			must(t, statement.Open(out.Envelope, statement.InfoPayloadType, statement.NewKey(k.node.Public().(ed25519.PublicKey)), &i))
		}
		return i, w.Code
	}
	version := func(i statement.Info, p bulwark.ProjectID) uint64 {
		for _, k := range i.Projects {
			if k.Project == p && len(k.Public) > 0 && time.Since(k.Since) < time.Minute {
				return k.Version
			}
		}
		return 0
	}
	i, _ := info("what I chose")
	if i.Challenge != "what I chose" || version(i, bulwark.FirstProject) != 1 || version(i, bulwark.PostureProject) != 1 {
		t.Errorf("it says %+v", i)
	}
	if _, code := info(strings.Repeat("x", maxChallenge+1)); code == 200 {
		t.Error("it signs any text")
	}
	must(t, n.rotateOnce(t.Context(), time.Hour))
	if i, _ := info(""); i.Challenge != "" || version(i, bulwark.FirstProject) != 1 {
		t.Errorf("it says %+v", i)
	}
	must(t, n.rotateOnce(t.Context(), 0))
	if i, _ := info(""); version(i, bulwark.FirstProject) != 2 || version(i, bulwark.PostureProject) != 2 {
		t.Errorf("it says %+v", i)
	}
	left, err := filepath.Glob(filepath.Join(dir, "keys", "prj_*"))
	must(t, err)
	if len(left) != 4 {
		t.Errorf("there is %q", left)
	}
	for _, f := range left {
		if !strings.Contains(f, ".2.key") {
			t.Errorf("%s is still there", f)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "recovery.txt")); err != nil || !strings.Contains(string(b), "AGE-SECRET-KEY-PQ-") {
		t.Errorf("%v", err)
	}
}

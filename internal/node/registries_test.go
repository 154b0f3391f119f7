package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// signing is a ledger and what its one person says to it.
func signing(t *testing.T) (*ledger.Ledger, func(statement.Kind, any)) {
	t.Helper()
	key := func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	device := key()
	spare, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db"), Key: key(), Domain: "apps.example.org",
		Keys: projectkeys.Open(t.TempDir(), spare.Recipient())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	say := func(kind statement.Kind, body any) {
		t.Helper()
		s, err := statement.New(l.Node(), kind, "", body, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		env, err := statement.Seal(statement.PayloadType, s, device)
		if err == nil && kind == statement.KindEnroll {
			_, err = l.Enroll(t.Context(), env)
		} else if err == nil {
			_, err = l.Submit(t.Context(), env)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	secret := []byte("secret")
	if err := l.AddToken(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	der := statement.NewKey(device.Public().(ed25519.PublicKey)).PKIX()
	say(statement.KindEnroll, statement.Enroll{Name: "x", Device: der, Proof: enrol.Proof(secret, der)})
	return l, say
}

// What people allow reaches a builder: registries of images on their one port, the rest as it was said; an inner address
// is behind a whole name alone, and never behind what the host's toolchains use.
func TestBuildRules(t *testing.T) {
	l, say := signing(t)
	b := &builds{ledger: l, config: buildConfig{Toolchains: Toolchains{Allow: []string{"proxy.golang.org"}}}}
	say(statement.KindRegistryAllow, statement.Registry{Host: "registry.internal:5000"})
	say(statement.KindRegistryAllow, statement.Registry{Host: "registry.example.org"})
	say(statement.KindRegistryAllow, statement.Registry{Host: "docker.io"})
	say(statement.KindRegistryAllow, statement.Registry{Host: "10.1.2.3:5000"})
	say(statement.KindRegistryAllow, statement.Registry{Host: "npm.internal:4873", Packages: true})
	say(statement.KindRegistryAllow, statement.Registry{Host: "*.cdn.example.org", Packages: true})
	rules, err := b.rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules {
		got = append(got, fmt.Sprintf("%s private=%v", r.To, r.Private))
	}
	want := []string{"proxy.golang.org private=false", "*.cdn.example.org private=false", "10.1.2.3/32:5000 private=true", "docker.io:443 private=true",
		"registry-1.docker.io:443 private=false", "auth.docker.io:443 private=false", "npm.internal:4873 private=true", "registry.example.org:443 private=true",
		"registry.internal:5000 private=true"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	images, err := b.registries(t.Context())
	if err != nil || fmt.Sprint(images) != "[{10.1.2.3:5000 } {docker.io } {registry.example.org } {registry.internal:5000 }]" {
		t.Errorf("%v, %v", images, err)
	}
}

// The provenance has the images of a build behind its source; what a hostile builder says of them is bounded in form, and
// the digest of a base is the node's own.
func TestAddUsed(t *testing.T) {
	dir := t.TempDir()
	own := bulwark.Sum([]byte("the base"))
	if err := os.MkdirAll(filepath.Join(dir, "go"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go", "index.json"), []byte(`{"manifests":[{"digest":"`+string(own)+`"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &builds{config: buildConfig{Bases: dir}}
	other := bulwark.Sum([]byte("other"))
	var p statement.Provenance
	err := b.addUsed(&p, []bulwark.ImageUsed{{Base: "go", Digest: other}, {Ref: "registry.internal:5000/team/base:1", Digest: other}})
	var got []string
	for _, r := range p.Predicate.BuildDefinition.ResolvedDependencies {
		got = append(got, r.URI+" "+r.Digest["sha256"])
	}
	want := []string{"bulwark-base:go " + own.Hex(), "docker-image://registry.internal:5000/team/base:1 " + other.Hex()}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for what, u := range map[string]bulwark.ImageUsed{
		"nothing":         {},
		"a path":          {Base: "../go"},
		"no such base":    {Base: "rust"},
		"both":            {Base: "go", Ref: "a/b:1", Digest: other},
		"no digest":       {Ref: "a/b:1"},
		"another digest":  {Ref: "a/b:1", Digest: "sha512:00"},
		"a line end":      {Ref: "a/b:1\nx", Digest: other},
		"an escape":       {Ref: "a/\x1b[2J", Digest: other},
		"far too long":    {Ref: "a/" + strings.Repeat("b", 600), Digest: other},
		"a leading space": {Ref: " a/b:1", Digest: other},
	} {
		if err := b.addUsed(&statement.Provenance{}, []bulwark.ImageUsed{u}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := b.addUsed(&statement.Provenance{}, make([]bulwark.ImageUsed, 101)); bulwark.KindOf(err) != bulwark.KindFailed {
		t.Errorf("101 images: %v", err)
	}
}

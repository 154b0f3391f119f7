package main

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// asDeploy makes a statement the cause, and the provenance what the node writes for it.
func (f *forge) asDeploy(t *testing.T, d statement.Deploy) {
	t.Helper()
	s, err := statement.New(f.release.Node, statement.KindDeploy, f.release.App, d, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	f.deploy = s
	def := &f.provenance.Predicate.BuildDefinition
	def.ResolvedDependencies = []statement.Resource{d.Material()}
	if d.Image != "" {
		def.BuildType = statement.ImportType
	}
}

func TestChainOfDeploy(t *testing.T) {
	tree := statement.Deploy{Tree: statement.TreeDigest("tree1:" + strings.Repeat("7", 64))}
	image := statement.Deploy{Image: bulwark.Sum([]byte("archive"))}
	for name, c := range map[string]struct {
		signed statement.Deploy
		forge  func(*statement.BuildDefinition)
		source string
		detail string
	}{
		"a folder":       {tree, nil, linkHolds, "folder tree1:777"},
		"an image":       {image, nil, linkHolds, "imported: it was not built here"},
		"another folder": {tree, func(d *statement.BuildDefinition) { d.ResolvedDependencies[0].Digest["bulwarkTree1"] = "8" }, linkBroken, "another source"},
		"a commit": {tree, func(d *statement.BuildDefinition) {
			d.ResolvedDependencies[0].Digest = map[string]string{"gitCommit": forgedCommit}
		}, linkBroken, "another source"},
		"nothing": {tree, func(d *statement.BuildDefinition) { d.ResolvedDependencies = nil }, linkBroken, "another source"},
		"another archive": {image, func(d *statement.BuildDefinition) {
			d.ResolvedDependencies[0].Digest["sha256"] = strings.Repeat("8", 64)
		}, linkBroken, "another source"},
		"a folder imported": {tree, func(d *statement.BuildDefinition) { d.BuildType = statement.ImportType }, linkBroken, "of the type"},
		"an image built":    {image, func(d *statement.BuildDefinition) { d.BuildType = statement.BuildType }, linkBroken, "of the type"},
		"both were signed":  {statement.Deploy{Tree: tree.Tree, Image: image.Image}, nil, linkBroken, "either a source tree or an image"},
	} {
		f := newForge(t)
		f.asDeploy(t, c.signed)
		if c.forge != nil {
			c.forge(&f.provenance.Predicate.BuildDefinition)
		}
		got := verifyChain(f.sign(t))
		if state(got, "source") != c.source || got.holds() != (c.source == linkHolds) || !strings.Contains(got.Links[1].Detail, c.detail) {
			t.Errorf("%s: %+v", name, got.Links)
		}
	}
	// Another person's device key is not at hand here: the node vouches for the signature.
	f := newForge(t)
	f.asDeploy(t, tree)
	e := f.sign(t)
	e.device = make([]byte, ed25519.PublicKeySize)
	if c := verifyChain(e); !c.holds() || state(c, "signature") != linkVouched || state(c, "source") != linkHolds {
		t.Errorf("%+v", c)
	}
}

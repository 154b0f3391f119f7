package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// forge is everything that a bundle is made of, so that a test can spoil one part and sign the rest anew: what a server
// that lies, or one that has got hold of some key, could come up with.
type forge struct {
	nodeKey, device ed25519.PrivateKey
	person          ssh.Signer
	signKey         ed25519.PrivateKey // signs the node's documents
	answerKey       ed25519.PrivateKey // signs the node's answer

	cert       string // payload of the push certificate
	provenance statement.Provenance
	release    statement.Release
	running    statement.Running
	deploy     *statement.Statement // if set, the release's cause in place of the push
	rollback   *statement.Statement // if set, the release's cause; the push is its origin

	// What is exchanged after everything was signed.
	last func(*client.Proof)
}

const forgedCommit = "1111111111111111111111111111111111111111"

func newForge(t *testing.T) *forge {
	t.Helper()
	key := func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	f := &forge{nodeKey: key(), device: key()}
	f.signKey, f.answerKey = f.nodeKey, f.nodeKey
	var err error
	if f.person, err = ssh.NewSignerFromKey(key()); err != nil {
		t.Fatal(err)
	}
	node := statement.NewKey(f.nodeKey.Public().(ed25519.PublicKey)).Fingerprint
	f.cert = certificate("shop", forgedCommit)
	app, image := bulwark.NewAppID(), bulwark.Sum([]byte("image"))
	cause := statement.Cause{Kind: statement.KindPush, Person: bulwark.NewPersonID(), Key: ssh.FingerprintSHA256(f.person.PublicKey())}
	f.provenance = statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType,
		Subject: []statement.Subject{{Name: "shop", Digest: map[string]string{"sha256": image.Hex()}}}}
	f.provenance.Predicate.BuildDefinition = statement.BuildDefinition{BuildType: statement.BuildType,
		ExternalParameters:   statement.ExternalParameters{Node: node, App: app, Name: "shop", Cause: cause},
		ResolvedDependencies: []statement.Resource{{URI: "git+shop", Digest: map[string]string{"gitCommit": forgedCommit, "gitTree": "2222"}}}}
	f.release = statement.Release{Version: 1, Node: node, Project: bulwark.NewProjectID(), App: app, Name: "shop", Generation: 3, Image: image,
		Config: statement.ConfigRef{Digest: bulwark.Sum(nil)}, Cause: cause, Time: time.Unix(1700000000, 0).UTC()}
	f.running = statement.Running{Node: node, App: app, Challenge: "question", Time: time.Unix(1700000000, 0).UTC(),
		Instances: []statement.RunningInstance{{Instance: bulwark.NewInstanceID(), Process: "web", Generation: 3, Image: image}}}
	return f
}

func certificate(app, commit string) string {
	return fmt.Sprintf("certificate version 0.1\npusher key 1700000000 +0000\npushee ssh://git@localhost:2222/%s.git\nnonce 1-x\n\n%s %s refs/heads/main\n",
		app, strings.Repeat("0", 40), commit)
}

// sign makes the evidence.
func (f *forge) sign(t *testing.T) evidence {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sig, err := sshsig.Sign(strings.NewReader(f.cert), f.person, sshsig.HashSHA512, "git")
	if err != nil {
		t.Fatal(err)
	}
	push := append([]byte(f.cert), sshsig.Armor(sig)...)
	origin := &f.provenance.Predicate.BuildDefinition.ExternalParameters.Cause
	if origin.Digest == "" {
		origin.Digest = bulwark.Sum(push)
	}
	b := statement.Bundle{Cause: push}
	if f.deploy != nil {
		b.Cause = must(statement.Seal(statement.PayloadType, f.deploy, f.device))
		cause := statement.Cause{Kind: statement.KindDeploy, Person: f.release.Cause.Person, Digest: bulwark.Sum(b.Cause),
			Key: statement.NewKey(f.device.Public().(ed25519.PublicKey)).Fingerprint}
		f.release.Cause, *origin = cause, cause
	}
	if f.rollback != nil {
		b.Origin, b.Cause = push, must(statement.Seal(statement.PayloadType, f.rollback, f.device))
		f.release.Cause.Kind, f.release.Cause.Key = statement.KindRollback, statement.NewKey(f.device.Public().(ed25519.PublicKey)).Fingerprint
	}
	b.Provenance = must(statement.Seal(statement.ProvenancePayloadType, f.provenance, f.signKey))
	if f.release.Cause.Digest == "" {
		f.release.Cause.Digest = bulwark.Sum(b.Cause)
	}
	if f.release.Provenance == "" {
		f.release.Provenance = bulwark.Sum(b.Provenance)
	}
	b.Release = must(statement.Seal(statement.ReleasePayloadType, f.release, f.signKey))
	for i := range f.running.Instances {
		if f.running.Instances[i].Release == "" {
			f.running.Instances[i].Release = bulwark.Sum(b.Release)
		}
	}
	p := client.Proof{Bundle: b, Running: must(statement.Seal(statement.RunningPayloadType, f.running, f.answerKey))}
	if f.last != nil {
		f.last(&p)
	}
	return evidence{app: "shop", challenge: "question", node: statement.NewKey(f.nodeKey.Public().(ed25519.PublicKey)),
		device: f.device.Public().(ed25519.PublicKey), proof: p}
}

func TestChainHolds(t *testing.T) {
	c := verifyChain(newForge(t).sign(t))
	if !c.holds() || c.Release != 3 || c.Commit != forgedCommit || len(c.Links) != 6 {
		t.Fatalf("%+v", c)
	}
	for _, l := range c.Links {
		if l.State != linkHolds {
			t.Errorf("%+v", l)
		}
	}
}

func (f *forge) asRollback(t *testing.T) {
	t.Helper()
	s, err := statement.New(f.release.Node, statement.KindRollback, f.release.App, statement.Rollback{To: 1}, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	f.rollback = s
}

// TestChainOfImages: what a Dockerfile's FROM took from a registry is told, as the claim that it is.
func TestChainOfImages(t *testing.T) {
	f := newForge(t)
	def := &f.provenance.Predicate.BuildDefinition
	def.ResolvedDependencies = append(def.ResolvedDependencies, statement.Resource{URI: "docker-image://registry.internal:5000/base:1", Digest: map[string]string{"sha256": "77"}},
		statement.Resource{URI: "bulwark-base:go", Digest: map[string]string{"sha256": "88"}})
	c := verifyChain(f.sign(t))
	if !c.holds() || state(c, "built from") != linkVouched || state(c, "source") != linkHolds {
		t.Fatalf("%+v", c)
	}
}

func TestChainOfRollback(t *testing.T) {
	f := newForge(t)
	f.asRollback(t)
	e := f.sign(t)
	c := verifyChain(e)
	if !c.holds() || state(c, "release signature") != linkHolds {
		t.Fatalf("%+v", c)
	}
	// On another machine the device's public key is not at hand: the node vouches, and the output says so.
	e.device = make([]byte, ed25519.PublicKeySize)
	if c := verifyChain(e); !c.holds() || state(c, "release signature") != linkVouched {
		t.Fatalf("%+v", c)
	}
}

// state is that of the worst link of a name.
func state(c *chain, name string) (worst string) {
	for _, l := range c.Links {
		if l.Name == name && worst != linkBroken {
			worst = l.State
		}
	}
	return worst
}

// TestChainBroken breaks each link in turn; broken names the links that must show it.
func TestChainBroken(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(b []byte) []byte { return bytes.Replace(b, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1) }
	for name, c := range map[string]struct {
		forge  func(*forge)
		broken []string
	}{
		"the push is for another app":       {func(f *forge) { f.cert = certificate("other", forgedCommit) }, []string{"signature"}},
		"the push is of another commit":     {func(f *forge) { f.cert = certificate("shop", strings.Repeat("3", 40)) }, []string{"source"}},
		"the push is signed by another key": {func(f *forge) { f.person, _ = ssh.NewSignerFromKey(stranger) }, []string{"signature"}},
		"the certificate was changed": {func(f *forge) {
			f.last = func(p *client.Proof) {
				p.Bundle.Cause = bytes.Replace(p.Bundle.Cause, []byte("1111"), []byte("4444"), 1)
			}
		}, []string{"signature", "release"}},
		"the certificate has no signature": {func(f *forge) { f.last = func(p *client.Proof) { p.Bundle.Cause = []byte(f.cert) } }, []string{"signature", "release"}},
		"no certificate at all":            {func(f *forge) { f.last = func(p *client.Proof) { p.Bundle.Cause = nil } }, []string{"signature", "release"}},
		"the node built another commit": {func(f *forge) {
			f.provenance.Predicate.BuildDefinition.ResolvedDependencies[0].Digest["gitCommit"] = strings.Repeat("5", 40)
		}, []string{"source"}},
		"the node measured no source":          {func(f *forge) { f.provenance.Predicate.BuildDefinition.ResolvedDependencies = nil }, []string{"source"}},
		"the provenance is of another app":     {func(f *forge) { f.provenance.Predicate.BuildDefinition.ExternalParameters.App = bulwark.NewAppID() }, []string{"builder", "release"}},
		"the provenance is of another node":    {func(f *forge) { f.provenance.Predicate.BuildDefinition.ExternalParameters.Node = "SHA256:x" }, []string{"builder", "release"}},
		"the provenance is no provenance":      {func(f *forge) { f.provenance.PredicateType = "x" }, []string{"builder"}},
		"the provenance's signature is bad":    {func(f *forge) { f.last = func(p *client.Proof) { p.Bundle.Provenance = spoil(p.Bundle.Provenance) } }, []string{"builder", "release"}},
		"the provenance is of another image":   {func(f *forge) { f.provenance.Subject[0].Digest["sha256"] = strings.Repeat("6", 64) }, []string{"image", "release"}},
		"the provenance has two images":        {func(f *forge) { f.provenance.Subject = append(f.provenance.Subject, f.provenance.Subject[0]) }, []string{"image", "release"}},
		"the release runs another image":       {func(f *forge) { f.release.Image = bulwark.Sum([]byte("other")) }, []string{"image", "release", "running"}},
		"the release names another provenance": {func(f *forge) { f.release.Provenance = bulwark.Sum(nil) }, []string{"image", "release"}},
		"the release names another cause":      {func(f *forge) { f.release.Cause.Digest = bulwark.Sum(nil) }, []string{"release"}},
		"the release is of another app's name": {func(f *forge) { f.release.Name = "other" }, []string{"signature", "release"}},
		"the release is of another node":       {func(f *forge) { f.release.Node = "SHA256:x" }, []string{"release"}},
		"the release's signature is bad":       {func(f *forge) { f.last = func(p *client.Proof) { p.Bundle.Release = spoil(p.Bundle.Release) } }, []string{"release", "running"}},
		"all is signed by another node":        {func(f *forge) { f.signKey, f.answerKey = stranger, stranger }, []string{"signature", "source", "builder", "image", "release", "running"}},
		"the answer is signed by another":      {func(f *forge) { f.answerKey = stranger }, []string{"running"}},
		"the answer is an old one":             {func(f *forge) { f.running.Challenge = "an older question" }, []string{"running"}},
		"the answer is about another app":      {func(f *forge) { f.running.App = bulwark.NewAppID() }, []string{"running"}},
		"the answer is of another node":        {func(f *forge) { f.running.Node = "SHA256:x" }, []string{"running"}},
		"there is no answer":                   {func(f *forge) { f.last = func(p *client.Proof) { p.Running = nil } }, []string{"running"}},
		"the answer is of another kind":        {func(f *forge) { f.last = func(p *client.Proof) { p.Running = p.Bundle.Release } }, []string{"running"}},
		"an instance runs another release":     {func(f *forge) { f.running.Instances[0].Release = bulwark.Sum(nil) }, []string{"running"}},
		"an instance runs an old generation":   {func(f *forge) { f.running.Instances[0].Generation = 2 }, []string{"running"}},
		"an instance runs another image":       {func(f *forge) { f.running.Instances[0].Image = bulwark.Sum(nil) }, []string{"running"}},
		"a second instance is not right": {func(f *forge) {
			i := f.running.Instances[0]
			i.Image = bulwark.Sum(nil)
			f.running.Instances = append(f.running.Instances, i)
		}, []string{"running"}},
		"the rollback is for another app":  {func(f *forge) { f.asRollback(t); f.rollback.App = bulwark.NewAppID() }, []string{"release signature"}},
		"the rollback is for another node": {func(f *forge) { f.asRollback(t); f.rollback.Node = "SHA256:x" }, []string{"release signature"}},
		"the rollback is something else":   {func(f *forge) { f.asRollback(t); f.rollback.Kind = statement.KindResize }, []string{"release signature"}},
		"the rollback's signature is bad": {func(f *forge) {
			f.asRollback(t)
			f.last = func(p *client.Proof) { p.Bundle.Cause = spoil(p.Bundle.Cause) }
		}, []string{"release signature", "release"}},
	} {
		f := newForge(t)
		c.forge(f)
		got := verifyChain(f.sign(t))
		if got.holds() {
			t.Errorf("%s: the chain holds", name)
		}
		for _, l := range c.broken {
			if state(got, l) != linkBroken {
				t.Errorf("%s: the link %s is not broken: %+v", name, l, got.Links)
			}
		}
		if slices.Equal(c.broken, []string{"running"}) && state(got, "release") != linkHolds {
			t.Errorf("%s: it broke more than it should: %+v", name, got.Links)
		}
	}
}

// A certificate whose bytes the node's documents name, but which somebody else signed, must break as a signature, even
// if the node's key is known to the forger: the two are checked apart.
func TestChainDoesNotTakeTheNodesWordForAPush(t *testing.T) {
	f := newForge(t)
	f.release.Cause.Key, f.provenance.Predicate.BuildDefinition.ExternalParameters.Cause.Key = "SHA256:x", "SHA256:x"
	if c := verifyChain(f.sign(t)); c.holds() || state(c, "signature") != linkBroken {
		t.Fatalf("%+v", c)
	}
}

func TestEmptyProof(t *testing.T) {
	if c := verifyChain(evidence{node: statement.NewKey(make([]byte, 32)), device: make([]byte, 32)}); c.holds() {
		t.Fatalf("%+v", c)
	}
}

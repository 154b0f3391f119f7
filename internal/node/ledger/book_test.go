package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// book is a ledger with everything around it that a test needs: the node's key, the project's key, a clock.
type book struct {
	*ledger.Ledger
	t     *testing.T
	node  ed25519.PrivateKey
	keys  *projectkeys.Ring
	dir   string              // of the keys
	spare *age.HybridIdentity // opens their copies
	clock time.Time
	grace time.Duration // that apps get which are destroyed; as it is when the ledger is opened
	ran   time.Duration
}

func open(t *testing.T) *book { return openAt(t, filepath.Join(t.TempDir(), "ledger.db")) }

func openAt(t *testing.T, path string) *book {
	t.Helper()
	spare, err := age.GenerateHybridIdentity()
	ok(t, err)
	return reopen(t, &book{t: t, node: newKey(t), dir: t.TempDir(), spare: spare, clock: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}, path)
}

// reopen opens the ledger of a book at path.
func reopen(t *testing.T, b *book, path string) *book {
	t.Helper()
	var err error
	b.keys = projectkeys.Open(b.dir, b.spare.Recipient())
	b.Ledger, err = ledger.Open(t.Context(), ledger.Config{Path: path, Key: b.node, Keys: b.keys, Domain: "apps.example.org",
		Now: func() time.Time { return b.clock }, Grace: b.grace, Ran: func() time.Duration { return b.ran }})
	ok(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// person is somebody with a device key and an SSH key.
type person struct {
	id     bulwark.PersonID
	device ed25519.PrivateKey
	ssh    ssh.Signer
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	return k
}

func newSSH(t *testing.T) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(newKey(t))
	ok(t, err)
	return s
}

func pkix(k ed25519.PrivateKey) []byte {
	return statement.NewKey(k.Public().(ed25519.PublicKey)).PKIX()
}

func fingerprint(k ed25519.PrivateKey) string {
	return statement.NewKey(k.Public().(ed25519.PublicKey)).Fingerprint
}

func line(s ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

// proven is an SSH key that signed to be registered by a statement of signer's.
func (b *book) proven(s ssh.Signer, signer ed25519.PrivateKey) statement.SSHKey {
	b.t.Helper()
	text := statement.KeyProof(b.Node(), fingerprint(signer), ssh.FingerprintSHA256(s.PublicKey()))
	sig, err := sshsig.Sign(bytes.NewReader(text), s, sshsig.HashSHA512, statement.KeyProofNamespace)
	ok(b.t, err)
	return statement.SSHKey{Line: line(s), Proof: string(sshsig.Armor(sig))}
}

// addSSH is the body that registers an SSH key of p's, addDevice that for a device.
func (b *book) addSSH(p *person, s ssh.Signer) statement.KeyAdd {
	k := b.proven(s, p.device)
	return statement.KeyAdd{SSH: &k}
}

func (b *book) addDevice(p *person, k ed25519.PrivateKey) statement.KeyAdd {
	return statement.KeyAdd{Device: pkix(k), Proof: ed25519.Sign(k, statement.KeyProof(b.Node(), fingerprint(p.device), fingerprint(k)))}
}

// enrol makes a person in the way in which people become known: with a one-time token.
func (b *book) enrol() *person {
	b.t.Helper()
	p := &person{device: newKey(b.t), ssh: newSSH(b.t)}
	secret := []byte(rand.Text())
	ok(b.t, b.AddToken(b.ctx(), secret))
	r, err := b.Enroll(b.ctx(), b.enrolment(p, secret))
	ok(b.t, err)
	p.id = r.Person
	return p
}

func (b *book) enrolment(p *person, secret []byte) []byte {
	der := pkix(p.device)
	return b.sign(p.device, statement.KindEnroll, "", statement.Enroll{Name: "Somebody", Device: der, SSH: []statement.SSHKey{b.proven(p.ssh, p.device)}, Proof: enrol.Proof(secret, der)})
}

func (b *book) ctx() context.Context { return b.t.Context() }

// sign makes an envelope of a statement for this node.
func (b *book) sign(k ed25519.PrivateKey, kind statement.Kind, app bulwark.AppID, body any) []byte {
	b.t.Helper()
	s, err := statement.New(b.Node(), kind, app, body, b.clock)
	ok(b.t, err)
	return b.seals(k, s)
}

func (b *book) seals(k ed25519.PrivateKey, s *statement.Statement) []byte {
	b.t.Helper()
	env, err := statement.Seal(statement.PayloadType, s, k)
	ok(b.t, err)
	return env
}

// must submits a statement of p that is accepted.
func (b *book) must(p *person, kind statement.Kind, app bulwark.AppID, body any) *ledger.Receipt {
	b.t.Helper()
	r, err := b.Submit(b.ctx(), b.sign(p.device, kind, app, body))
	ok(b.t, err)
	return r
}

// named is a DNS that says that a host is an organisation's.
func (b *book) named(host bulwark.HostName, org bulwark.OrgID) ledger.Named {
	return ledger.Named{Host: host, Words: []string{ledger.ProofWord(b.Node(), org)}, Asked: true}
}

// refused submits a statement of p that is refused with a kind.
func (b *book) refused(p *person, want bulwark.Kind, kind statement.Kind, app bulwark.AppID, body any) {
	b.t.Helper()
	_, err := b.Submit(b.ctx(), b.sign(p.device, kind, app, body))
	isKind(b.t, err, want)
}

func (b *book) app(p *person, name bulwark.AppName) bulwark.AppID {
	b.t.Helper()
	id := bulwark.NewAppID()
	b.must(p, statement.KindAppCreate, id, statement.AppCreate{Name: name})
	return id
}

// value seals a value for a config variable.
func (b *book) value(app bulwark.AppID, use string, name bulwark.ConfigName, v string) []byte {
	b.t.Helper()
	s, err := seal.Value(b.key().Public, b.place(app, use, name), []byte(v))
	ok(b.t, err)
	return s
}

// key is the first project's key as it counts now, private the secret half of it.
func (b *book) key() statement.ProjectKey {
	b.t.Helper()
	all, err := b.ProjectKeys(b.ctx())
	ok(b.t, err)
	return all[slices.IndexFunc(all, func(k statement.ProjectKey) bool { return k.Project == bulwark.FirstProject })]
}

func (b *book) private() *seal.Key {
	b.t.Helper()
	k, err := b.keys.Key(bulwark.FirstProject, b.key().Version)
	ok(b.t, err)
	return k
}

func (b *book) place(app bulwark.AppID, use string, name bulwark.ConfigName) seal.Place {
	return seal.Place{Node: b.Node(), Project: bulwark.FirstProject, App: app, Use: use, Name: name}
}

func (b *book) set(p *person, app bulwark.AppID, base uint64, name bulwark.ConfigName, v string) *ledger.Receipt {
	b.t.Helper()
	return b.must(p, statement.KindConfigSet, app, statement.ConfigSet{Base: base, Key: b.key().Version, Set: map[bulwark.ConfigName][]byte{name: b.value(app, seal.UseConfig, name, v)}})
}

// cert is a push certificate before it is signed.
type cert struct {
	name  bulwark.AppName
	nonce string
	new   bulwark.Commit
	ref   string
}

func (c cert) signed(t *testing.T, by ssh.Signer) []byte {
	t.Helper()
	if c.ref == "" {
		c.ref = "refs/heads/main"
	}
	payload := fmt.Sprintf("certificate version 0.1\npusher %s 1780000000 +0000\npushee ssh://git@apps.example.org:2222/%s.git\nnonce %s\n\n%s %s %s\n",
		"somebody", c.name, c.nonce, strings.Repeat("0", 40), c.new, c.ref)
	sig, err := sshsig.Sign(strings.NewReader(payload), by, sshsig.HashSHA512, "git")
	ok(t, err)
	return append([]byte(payload), sshsig.Armor(sig)...)
}

// nonce asks for a seed and makes the nonce that git would.
func (b *book) nonce(app bulwark.AppID) string {
	b.t.Helper()
	seed, err := b.Nonce(b.ctx(), app)
	ok(b.t, err)
	return pushnonce.Make(seed, ledger.RepoPath(app), b.clock)
}

func commit() bulwark.Commit {
	var c [20]byte
	rand.Read(c[:])
	return bulwark.Commit(hex.EncodeToString(c[:]))
}

// pushed has a push of p accepted.
func (b *book) pushed(p *person, app bulwark.AppID, name bulwark.AppName) *ledger.Receipt {
	b.t.Helper()
	r, err := b.Push(b.ctx(), app, cert{name: name, nonce: b.nonce(app), new: commit()}.signed(b.t, p.ssh))
	ok(b.t, err)
	return r
}

// built admits an image for a document, as the node does after a build, and returns its digest.
func (b *book) built(r *ledger.Receipt, name bulwark.AppName) bulwark.Digest {
	b.t.Helper()
	image := bulwark.Sum([]byte(rand.Text()))
	ok(b.t, b.RecordImage(b.ctx(), image, nil, ledger.ImageConfig{}))
	_, err := b.Admit(b.ctx(), bulwark.NewBuildID(), r.Digest, b.provenance(r, name, image))
	ok(b.t, err)
	return image
}

func (b *book) provenance(r *ledger.Receipt, name bulwark.AppName, image bulwark.Digest) *statement.Provenance {
	p := &statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType,
		Subject: []statement.Subject{{Name: string(name), Digest: map[string]string{"sha256": image.Hex()}}}}
	p.Predicate.BuildDefinition = statement.BuildDefinition{BuildType: statement.BuildType, ExternalParameters: statement.ExternalParameters{
		Node: b.Node(), App: r.App, Name: name, Cause: statement.Cause{Kind: r.Kind, Person: r.Person, Key: r.Key, Digest: r.Digest},
		Plan: bulwark.Plan{Planner: "go", Processes: map[bulwark.ProcessType]bulwark.Command{"web": {Argv: []string{"/app/web"}}}}}}
	return p
}

// deployed pushes, builds, releases and promotes.
func (b *book) deployed(p *person, app bulwark.AppID, name bulwark.AppName) (*statement.Bundle, *statement.Release) {
	b.t.Helper()
	r := b.pushed(p, app, name)
	b.built(r, name)
	bundle, rel, err := b.Release(b.ctx(), r.Digest)
	ok(b.t, err)
	ok(b.t, b.Promote(b.ctx(), app, rel.Generation))
	return bundle, rel
}

// launches tells whether a bundle starts, and gives what it was told.
func (b *book) launches(bundle *statement.Bundle) (*ledger.Launch, error) {
	return b.Launch(b.ctx(), *bundle)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isKind(t *testing.T, err error, want bulwark.Kind) {
	t.Helper()
	if err == nil {
		t.Fatalf("it was accepted; want %s", want)
	}
	if got := bulwark.KindOf(err); got != want {
		t.Fatalf("refused as %s (%v); want %s", got, err, want)
	}
}

// padded is the same envelope in other bytes: DSSE's signature does not cover the JSON around it.
func padded(env []byte) []byte { return append(bytes.Clone(env), ' ') }

func sshFingerprint(s ssh.Signer) string { return ssh.FingerprintSHA256(s.PublicKey()) }

// What did not hold once: each test tells of a hole that was found by looking for it, and that stays closed.

package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Whoever owns the server keeps a reveal statement of somebody who has left. Sent again, it must not open what was set
// after they left: their key is removed, and they named the recipient.
func TestHoleRevealAfterTheKeyIsGone(t *testing.T) {
	b := open(t)
	p, leaver := b.enrol(), b.enrol()
	app := b.app(p, "shop")
	b.set(p, app, 0, "TOKEN", "one")
	keeps, err := seal.GenerateKey()
	ok(t, err)
	env := b.sign(leaver.device, statement.KindConfigReveal, app, statement.ConfigReveal{Name: "TOKEN", Recipient: keeps.Public()})
	_, err = b.Reveal(b.ctx(), env)
	ok(t, err)

	// The leaver's key goes (by another of their own: see TestHoleNobodyRemovesAStolenKey), the secret is rotated.
	spare := newKey(t)
	b.must(leaver, statement.KindKeyAdd, "", b.addDevice(leaver, spare))
	_, err = b.Submit(b.ctx(), b.sign(spare, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(leaver.device)}))
	ok(t, err)
	b.set(p, app, 1, "TOKEN", "rotated since")

	sealed, err := b.Reveal(b.ctx(), env)
	if err != nil {
		return
	}
	v, err := keeps.Open(b.place(app, seal.UseReveal, "TOKEN"), sealed)
	ok(t, err)
	t.Fatalf("the old statement of a removed key revealed %q", v)
}

// Whoever owns the server keeps a push that was accepted and built but never released (a newer one took its place, or
// somebody canceled it), and makes a release of it months later: the old code serves again and nobody asked for it.
func TestHoleOldPushReleasedLate(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	old := b.pushed(p, app, "shop")
	vulnerable := b.built(old, "shop")
	b.deployed(p, app, "shop") // the newer push

	bundle, r, err := b.Release(b.ctx(), old.Digest)
	if err != nil {
		return
	}
	if _, err := b.launches(bundle); err == nil && r.Image == vulnerable {
		t.Fatalf("release v%d starts the image of a push that is older than the one that serves", r.Generation)
	}
}

// A push of a key that was removed before the release was made must not become one.
func TestHoleReleaseAfterTheKeyIsGone(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	push := b.pushed(p, app, "shop")
	b.must(p, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: sshFingerprint(p.ssh)})
	b.built(push, "shop")
	bundle, _, err := b.Release(b.ctx(), push.Digest)
	if err != nil {
		return
	}
	if _, err := b.launches(bundle); err == nil {
		t.Fatal("a push of a removed key was released and starts")
	}
}

// A person pushes a branch that does not deploy. The server refuses it to their face and takes the certificate to the node.
func TestHoleAnyBranchDeploys(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	_, err := b.Push(b.ctx(), app, cert{name: "shop", nonce: b.nonce(app), new: commit(), ref: "refs/heads/half-done"}.signed(t, p.ssh))
	if err == nil {
		t.Fatal("a signed push of refs/heads/half-done counts as a deploy")
	}
}

// A thief holds the only key of a colleague. Somebody must be able to take it away.
func TestHoleNobodyRemovesAStolenKey(t *testing.T) {
	b := open(t)
	p, victim := b.enrol(), b.enrol()
	_, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(victim.device)}))
	if err != nil {
		t.Fatalf("no statement removes it: %v", err)
	}
}

// The server withholds a statement, says that it failed, and sends it when it suits: a year later.
func TestHoleStatementNeverExpires(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	env := b.sign(p.device, statement.KindAppDestroy, app, statement.AppDestroy{Name: "shop"})
	b.clock = b.clock.AddDate(1, 0, 0)
	if _, err := b.Submit(b.ctx(), env); err == nil {
		t.Fatal("an order to destroy, a year old and never sent before, was carried out")
	}
}

// An app's config has to fit into an environment. What is set over many statements has no bound, and all of it is opened at
// each start, in the ledger's one writing transaction.
func TestHoleConfigWithoutBound(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	big := strings.Repeat("x", seal.MaxValue)
	for i := range uint64(40) { // 5 MiB: execve(2) takes a quarter of the stack, 2 MiB
		set := statement.ConfigSet{Base: i, Set: map[bulwark.ConfigName][]byte{}}
		name := bulwark.ConfigName(fmt.Sprintf("V%d", i))
		set.Set[name] = b.value(app, seal.UseConfig, name, big)
		if _, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindConfigSet, app, set)); err != nil {
			return
		}
	}
	t.Fatal("an app's config may be larger than any environment")
}

// The node has the release in its book; one that verifies but is not the one in the book (made before the book was
// restored from a backup) is taken all the same, and so is the same one in other bytes, which gives its instances the
// digest of something that the book does not know.
func TestHoleReleaseThatIsNotInTheBook(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	bundle, _ := b.deployed(p, app, "shop")
	other := *bundle
	other.Release = padded(bundle.Release)
	l, err := b.launches(&other)
	if err == nil {
		t.Fatalf("it starts and calls its release %s, which no book holds", l.Digest)
	}
}

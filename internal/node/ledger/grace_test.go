package ledger_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

const week = 7 * 24 * time.Hour

// graced is a ledger that gives destroyed apps a week, and its file.
func graced(t *testing.T) (*book, string) {
	t.Helper()
	spare, err := age.GenerateHybridIdentity()
	ok(t, err)
	path := filepath.Join(t.TempDir(), "ledger.db")
	return reopen(t, &book{t: t, node: newKey(t), dir: t.TempDir(), spare: spare, clock: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), grace: week}, path), path
}

// passes lets time go by as it does: for the clock and for the node.
func (b *book) passes(d time.Duration) {
	b.clock = b.clock.Add(d)
	b.ran += d
}

// again is the node's next start: what it has run begins anew.
func (b *book) again(path string) {
	b.t.Helper()
	ok(b.t, b.Close())
	b.ran = 0
	reopen(b.t, b, path)
}

// finished counts, and returns what was ended for good.
func (b *book) finished() []bulwark.AppID {
	b.t.Helper()
	done, _, err := b.Finish(b.ctx())
	ok(b.t, err)
	return done
}

func (b *book) until(app bulwark.AppID) ledger.Grace {
	b.t.Helper()
	all, err := b.Graces(b.ctx(), []bulwark.AppID{app})
	ok(b.t, err)
	if len(all) != 1 {
		b.t.Fatalf("of %s it says %v", app, all)
	}
	return all[0]
}

func (b *book) destroy(p *person, app bulwark.AppID, name bulwark.AppName) *ledger.Receipt {
	b.t.Helper()
	return b.must(p, statement.KindAppDestroy, app, statement.AppDestroy{Name: name})
}

// rows counts what the ledger keeps of an app's values.
func rows(t *testing.T, path string, app bulwark.AppID) map[string]int {
	t.Helper()
	d, err := sql.Open("sqlite", path)
	ok(t, err)
	defer d.Close()
	out := map[string]int{}
	for _, table := range []string{"config_value", "build_secret", "host", "egress", "approver", "nonce"} {
		var n int
		ok(t, d.QueryRow(`SELECT count(*) FROM `+table+` WHERE app = ?`, app).Scan(&n))
		if n > 0 {
			out[table] = n
		}
	}
	return out
}

// full is an app that has everything.
type full struct {
	*book
	p      *person
	app    bulwark.AppID
	bundle *statement.Bundle
	push   *ledger.Receipt
	image  bulwark.Digest
}

func newFull(t *testing.T) (*full, string) {
	b, path := graced(t)
	f := &full{book: b, p: b.enrol()}
	f.app = b.app(f.p, "shop")
	b.set(f.p, f.app, 0, "TOKEN", "secret")
	b.must(f.p, statement.KindBuildSecret, f.app, statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{"NPM": b.value(f.app, seal.UseBuild, "NPM", "npm-secret")}})
	b.must(f.p, statement.KindDomainAdd, f.app, statement.Domain{Host: "www.example.net"})
	b.must(f.p, statement.KindEgressAllow, f.app, statement.Egress{Rule: "db.example.org:5432"})
	bundle, r := b.deployed(f.p, f.app, "shop")
	f.bundle, f.image = bundle, r.Image
	b.must(f.p, statement.KindResize, f.app, statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{"web": "large"}})
	f.push = b.pushed(f.p, f.app, "shop")
	b.built(f.push, "shop")
	return f, path
}

// TestGraceRefuses: nothing of a destroyed app starts, is read, built or changed, by whatever verb, and its owner is told why.
func TestGraceRefuses(t *testing.T) {
	f, _ := newFull(t)
	late := f.nonce(f.app)
	r := f.destroy(f.p, f.app, "shop")
	if r.Until == nil || !r.Until.Equal(f.clock.Add(week)) {
		t.Fatalf("the receipt says %v", r.Until)
	}
	for name, try := range map[string]func(context.Context) error{
		"start":         func(context.Context) error { _, err := f.launches(f.bundle); return err },
		"release":       func(ctx context.Context) error { _, _, err := f.Release(ctx, f.push.Digest); return err },
		"promote":       func(ctx context.Context) error { return f.Promote(ctx, f.app, 1) },
		"approvals":     func(ctx context.Context) error { _, _, err := f.Approvals(ctx, f.app, 1); return err },
		"hosts":         func(ctx context.Context) error { _, err := f.Hosts(ctx, f.app); return err },
		"build secrets": func(ctx context.Context) error { _, err := f.BuildSecrets(ctx, f.app); return err },
		"app":           func(ctx context.Context) error { _, err := f.App(ctx, f.app); return err },
		"nonce":         func(ctx context.Context) error { _, err := f.Nonce(ctx, f.app); return err },
		"still":         func(ctx context.Context) error { return f.Still(ctx, f.push) },
		"push": func(ctx context.Context) error {
			_, err := f.Push(ctx, f.app, cert{name: "shop", nonce: late, new: commit()}.signed(t, f.p.ssh))
			return err
		},
		"reveal": func(ctx context.Context) error {
			reader, err := seal.GenerateKey()
			ok(t, err)
			_, err = f.Reveal(ctx, f.sign(f.p.device, statement.KindConfigReveal, f.app, statement.ConfigReveal{Name: "TOKEN", Recipient: reader.Public()}))
			return err
		},
		"run": func(ctx context.Context) error {
			_, _, _, err := f.Run(ctx, f.sign(f.p.device, statement.KindRun, f.app, statement.Run{Argv: []string{"ls"}, Detach: true}))
			return err
		},
	} {
		if err := try(f.ctx()); bulwark.KindOf(err) != bulwark.KindNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for kind, body := range map[statement.Kind]any{
		statement.KindDeploy:    statement.Deploy{Tree: statement.TreeDigest("tree1:" + strings.Repeat("0", 64))},
		statement.KindRollback:  statement.Rollback{To: 1},
		statement.KindConfigSet: statement.ConfigSet{Base: 1}, statement.KindBuildSecret: statement.ConfigSet{},
		statement.KindResize: statement.Resize{}, statement.KindDomainAdd: statement.Domain{Host: "a.example.net"},
		statement.KindDomainRemove: statement.Domain{Host: "www.example.net"}, statement.KindEgressAllow: statement.Egress{Rule: "db.example.org:1"},
		statement.KindCertAdd: statement.CertAdd{}, statement.KindCertRemove: statement.CertRemove{Host: "www.example.net"},
		statement.KindEgressDeny: statement.Egress{Rule: "db.example.org:5432"}, statement.KindShieldSet: statement.Shield{}, statement.KindProtect: statement.Protect{Approvals: 1},
		statement.KindApprove: statement.Approve{Generation: 1}, statement.KindProtectApprove: statement.ProtectApprove{},
	} {
		_, err := f.Submit(f.ctx(), f.sign(f.p.device, kind, f.app, body))
		if bulwark.KindOf(err) != bulwark.KindNotFound || !strings.Contains(err.Error(), "App shop was destroyed") || !strings.Contains(err.Error(), "bulwark apps restore shop") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	f.refused(f.p, bulwark.KindConflict, statement.KindAppDestroy, f.app, statement.AppDestroy{Name: "shop"}) // once more begins no new grace
	if hosts, err := f.ClaimedHosts(f.ctx()); err != nil || len(hosts) > 0 {
		t.Errorf("its hosts are still served: %v %v", hosts, err)
	}
	if serving, err := f.Serving(f.ctx()); err != nil || len(serving) > 0 {
		t.Errorf("it still serves: %v %v", serving, err)
	}
}

// TestRestore: what comes back is what went: id, values, hosts, rules, sizes, releases, and the image. Name and hosts were nobody
// else's meanwhile.
func TestRestore(t *testing.T) {
	f, path := newFull(t)
	stranger := f.app
	other := f.book.app(f.p, "other")
	f.destroy(f.p, f.app, "shop")
	f.passes(week - time.Minute)
	if done := f.finished(); len(done) > 0 {
		t.Fatalf("%v ended before its time", done)
	}
	f.again(path) // all of it is on the disk

	_, err := f.Submit(f.ctx(), f.sign(f.p.device, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "shop"}))
	if bulwark.KindOf(err) != bulwark.KindConflict || !strings.Contains(err.Error(), "can still be brought back") {
		t.Errorf("its name: %v", err)
	}
	f.refused(f.p, bulwark.KindConflict, statement.KindAppCreate, stranger, statement.AppCreate{Name: "again"}) // its id
	_, err = f.Submit(f.ctx(), f.sign(f.p.device, statement.KindDomainAdd, other, statement.Domain{Host: "www.example.net"}))
	if bulwark.KindOf(err) != bulwark.KindConflict || !strings.Contains(err.Error(), "belongs to app shop, which was destroyed") {
		t.Errorf("its host: %v", err)
	}
	if stay, err := f.Collect(f.ctx(), nil); err != nil || stay[f.image] == nil && !hasKey(stay, f.image) {
		t.Errorf("its image was collected: %v", err)
	}
	if gone, err := f.Final(f.ctx(), f.app); gone || err != nil {
		t.Errorf("it is final: %v %v", gone, err)
	}

	r := f.must(f.p, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	if r.Promoted != 1 {
		t.Errorf("v%d serves", r.Promoted)
	}
	l, err := f.launches(f.bundle)
	ok(t, err)
	if string(l.Values["TOKEN"]) != "secret" || l.App.Block != 1 || !slices.Contains(l.Hosts, "www.example.net") || !slices.Contains(l.Hosts, "shop.apps.example.org") {
		t.Errorf("it starts with %v at %v", l.Values, l.Hosts)
	}
	if s, err := f.BuildSecrets(f.ctx(), f.app); err != nil || string(s["NPM"]) != "npm-secret" {
		t.Errorf("its build secrets: %v %v", s, err)
	}
	if e, err := f.Egress(f.ctx(), f.app); err != nil || len(e) != 1 {
		t.Errorf("its ways out: %v %v", e, err)
	}
	if hosts, err := f.ClaimedHosts(f.ctx()); err != nil || !slices.Contains(hosts, "www.example.net") {
		t.Errorf("its hosts: %v %v", hosts, err)
	}
	if _, rel, err := f.Release(f.ctx(), f.push.Digest); err != nil || rel.Generation != 2 || rel.Sizes["web"] != "large" {
		t.Errorf("what was built before makes %+v, %v", rel, err)
	}
	// And it is not on its way out any more.
	f.passes(2 * week)
	if done := f.finished(); len(done) > 0 {
		t.Errorf("%v ended after it was brought back", done)
	}
	f.refused(f.p, bulwark.KindConflict, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	// The next time it has the whole grace again.
	f.destroy(f.p, f.app, "shop")
	if g := f.until(f.app); g.Final || !g.Until.Equal(f.clock.Add(week)) {
		t.Errorf("it has until %v", g)
	}
}

func hasKey[K comparable, V any](m map[K]V, k K) bool { _, ok := m[k]; return ok }

// TestGraceIsOver: after it, the values are gone from the database, the name and the hosts are anybody's, and nothing brings it back.
func TestGraceIsOver(t *testing.T) {
	f, path := newFull(t)
	f.destroy(f.p, f.app, "shop")
	if have := rows(t, path, f.app); have["config_value"] == 0 || have["build_secret"] == 0 || have["host"] == 0 || have["egress"] == 0 {
		t.Fatalf("of what it takes to bring it back there is %v", have)
	}
	f.passes(week)
	done, next, err := f.Finish(f.ctx())
	ok(t, err)
	if len(done) != 1 || done[0] != f.app || next != 0 {
		t.Fatalf("%v ended, the next in %s", done, next)
	}
	if again := f.finished(); len(again) > 0 {
		t.Errorf("it ends again: %v", again)
	}
	f.again(path)
	if have := rows(t, path, f.app); len(have) > 0 {
		t.Errorf("it left %v", have)
	}
	if g := f.until(f.app); !g.Final {
		t.Error("it is not final")
	}
	f.refused(f.p, bulwark.KindNotFound, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	f.refused(f.p, bulwark.KindNotFound, statement.KindAppDestroy, f.app, statement.AppDestroy{Name: "shop", Now: true})
	f.refused(f.p, bulwark.KindConflict, statement.KindAppCreate, f.app, statement.AppCreate{Name: "another"}) // an id is never used again
	other := f.book.app(f.p, "shop")
	f.must(f.p, statement.KindDomainAdd, other, statement.Domain{Host: "www.example.net"})
	if stay, err := f.Collect(f.ctx(), nil); err != nil || hasKey(stay, f.image) {
		t.Errorf("its image stays: %v", err)
	}
}

// TestDestroyNow: an owner can do without the grace, at once or later, and a server that held such a statement back can not use it
// on what was brought back since.
func TestDestroyNow(t *testing.T) {
	f, path := newFull(t)
	now := statement.AppDestroy{Name: "shop", Now: true}
	held := f.sign(f.p.device, statement.KindAppDestroy, f.app, now)
	f.passes(time.Hour)
	if _, err := f.Submit(f.ctx(), held); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Errorf("an hour old: %v", err)
	}
	f.destroy(f.p, f.app, "shop")
	f.refused(f.p, bulwark.KindInvalid, statement.KindAppDestroy, f.app, statement.AppDestroy{Name: "other", Now: true})
	if r := f.must(f.p, statement.KindAppDestroy, f.app, now); r.Until != nil {
		t.Errorf("there is a grace until %v", r.Until)
	}
	if have := rows(t, path, f.app); len(have) > 0 {
		t.Errorf("it left %v", have)
	}
	f.refused(f.p, bulwark.KindNotFound, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	second := f.book.app(f.p, "shop")
	f.must(f.p, statement.KindAppDestroy, second, now)
	f.book.app(f.p, "shop")
}

// TestGraceIsTheOwners: neither a developer nor a token nor another tenant ends a grace or brings an app back, and what another
// tenant hears of a name in its grace is what it hears of any name that is taken.
func TestGraceIsTheOwners(t *testing.T) {
	b, _ := graced(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	developer := b.invite(owner, at, bulwark.Developer)
	b.must(operator, statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: operator.id})
	app := bulwark.NewAppID()
	b.must(owner, statement.KindAppCreate, app, statement.AppCreate{Name: "shop", Project: project})
	_, err := b.SubmitNamed(b.ctx(), b.sign(owner.device, statement.KindDomainAdd, app, statement.Domain{Host: "www.example.net"}), b.named("www.example.net", at.Org))
	ok(t, err)
	ci := newKey(t)
	token := bulwark.NewTokenID()
	b.must(owner, statement.KindTokenCreate, "", statement.TokenCreate{Token: token, Name: "ci", Key: pkix(ci), Until: b.clock.Add(time.Hour),
		Scopes: []statement.Scope{{Do: bulwark.DeedDeploy, App: app}}})
	theirs := bulwark.NewTokenID()
	b.must(developer, statement.KindTokenCreate, "", statement.TokenCreate{Token: theirs, Name: "theirs", Key: pkix(newKey(t)), Until: b.clock.Add(time.Hour),
		Scopes: []statement.Scope{{Do: bulwark.DeedDeploy, App: app}}})
	taken := func(name bulwark.AppName) string {
		_, err := b.Submit(b.ctx(), b.sign(operator.device, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: name}))
		return err.Error()
	}
	mine := b.app(operator, "mine")
	host := func() string {
		_, err := b.Submit(b.ctx(), b.sign(operator.device, statement.KindDomainAdd, mine, statement.Domain{Host: "www.example.net"}))
		return err.Error()
	}
	before, hostBefore := taken("shop"), host()
	b.destroy(owner, app, "shop")
	if after := taken("shop"); after != before {
		t.Errorf("of the name another tenant hears %q, and heard %q", after, before)
	}
	if after := host(); after != hostBefore {
		t.Errorf("of the host another tenant hears %q, and heard %q", after, hostBefore)
	}
	for who, want := range map[*person]bulwark.Kind{developer: bulwark.KindForbidden, operator: bulwark.KindNotFound, {device: ci}: bulwark.KindForbidden} {
		b.refused(who, want, statement.KindAppRestore, app, statement.AppRestore{Name: "shop"})
		b.refused(who, want, statement.KindAppDestroy, app, statement.AppDestroy{Name: "shop", Now: true})
	}
	_, err = b.Submit(b.ctx(), b.sign(operator.device, statement.KindConfigSet, app, statement.ConfigSet{}))
	if err == nil || !strings.Contains(err.Error(), bulwark.NoSuchApp().Error()) {
		t.Errorf("another tenant hears %v", err)
	}
	// A token of somebody else's for the app can be ended in the meantime: it would be back with the app.
	b.must(owner, statement.KindTokenRevoke, "", statement.TokenRevoke{Token: theirs})
	b.must(owner, statement.KindAppRestore, app, statement.AppRestore{Name: "shop"})
}

// TestGraceAndClocks: the machine's clock has no say in how long a grace is, in whichever direction and whenever it jumps; what
// counts is what the node has lived through.
func TestGraceAndClocks(t *testing.T) {
	f, path := newFull(t)
	f.passes(3 * time.Hour) // which is before the grace, and counted after it began
	f.destroy(f.p, f.app, "shop")
	if f.finished(); f.until(f.app).Until != f.clock.Add(week) {
		t.Errorf("the time before it counts: %v", f.until(f.app))
	}
	f.clock = f.clock.AddDate(1, 0, 0)
	if done := f.finished(); len(done) > 0 {
		t.Fatal("a jump by a year ended it")
	}
	f.passes(time.Hour)
	f.finished()
	f.again(path)
	f.clock = f.clock.AddDate(1, 0, 0) // the machine stood still for a year, or says so
	if done := f.finished(); len(done) > 0 {
		t.Fatal("a jump by a year between two starts ended it")
	}
	f.clock = f.clock.AddDate(-3, 0, 0)
	if g := f.until(f.app); !g.Until.Equal(f.clock.Add(week - time.Hour)) {
		t.Errorf("after an hour it has until %v; it is %v", g.Until, f.clock)
	}
	_, next, err := f.Finish(f.ctx())
	ok(t, err)
	if next != week-time.Hour {
		t.Errorf("it has %s to go", next)
	}
	f.passes(week - time.Hour)
	if done := f.finished(); len(done) != 1 {
		t.Error("a clock that was set back keeps it")
	}
}

// A grace is what it was when it began: the operator's next word counts for what is destroyed next.
func TestGraceIsDecidedOnce(t *testing.T) {
	f, path := newFull(t)
	f.destroy(f.p, f.app, "shop")
	f.grace = 0
	f.again(path)
	if done := f.finished(); len(done) > 0 {
		t.Error("another setting ended it")
	}
	f.must(f.p, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	if r := f.destroy(f.p, f.app, "shop"); r.Until != nil || !f.until(f.app).Final {
		t.Errorf("without a grace it is there until %v", r.Until)
	}
}

// A count that is not made ends nothing.
func TestGraceIsNotCounted(t *testing.T) {
	f, _ := newFull(t)
	f.destroy(f.p, f.app, "shop")
	f.passes(week)
	ctx, cancel := context.WithCancel(f.ctx())
	cancel()
	if _, _, err := f.Finish(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if g := f.until(f.app); g.Final {
		t.Error("it ended in a transaction that was not made")
	}
	f.must(f.p, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
}

package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A release says what follows from a signed document and a measured build, and the same document gives the same release.
func TestReleaseFollowsFromADocument(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	push := b.pushed(p, app, "shop")

	_, _, err := b.Release(b.ctx(), bulwark.Sum([]byte("signed by nobody")))
	isKind(t, err, bulwark.KindForbidden)
	_, _, err = b.Release(b.ctx(), push.Digest)
	isKind(t, err, bulwark.KindConflict) // nothing was built for it
	image := b.built(push, "shop")
	bundle, r, err := b.Release(b.ctx(), push.Digest)
	ok(t, err)
	if r.Generation != 1 || r.Image != image || r.Cause.Person != p.id || r.Cause.Digest != push.Digest || r.Config.Revision != 0 || r.Node != b.Node() {
		t.Fatalf("the release says %+v", r)
	}
	again, r2, err := b.Release(b.ctx(), push.Digest)
	ok(t, err)
	if r2.Generation != 1 || !bytes.Equal(again.Release, bundle.Release) {
		t.Fatal("the same document gave another release")
	}
	// A second build for the same document gives way to the one that was admitted.
	b.built(push, "shop")
	if _, r3, err := b.Release(b.ctx(), push.Digest); err != nil || r3.Image != image {
		t.Fatalf("the image changed under its release: %v", err)
	}
	for kind, body := range map[statement.Kind]any{
		statement.KindDomainAdd:    statement.Domain{Host: "www.example.net"},
		statement.KindDomainRemove: statement.Domain{Host: "www.example.net"},
	} {
		doc := b.must(p, kind, app, body)
		_, _, err := b.Release(b.ctx(), doc.Digest)
		isKind(t, err, bulwark.KindInvalid)
	}
}

// Config, size and rollback make releases of what serves; a rollback takes the old config only when a person said so.
func TestReleaseComposition(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	early := b.set(p, app, 0, "TOKEN", "one")
	_, _, err := b.Release(b.ctx(), early.Digest)
	isKind(t, err, bulwark.KindConflict) // nothing serves that a release could be made of

	_, v1 := b.deployed(p, app, "shop")
	if v1.Config != *early.Config {
		t.Fatalf("v1 has the config %+v", v1.Config)
	}
	_, v2 := b.deployed(p, app, "shop")
	second := b.set(p, app, 1, "TOKEN", "two")
	promoted := func(r *ledger.Receipt) *statement.Release {
		t.Helper()
		_, rel, err := b.Release(b.ctx(), r.Digest)
		ok(t, err)
		ok(t, b.Promote(b.ctx(), app, rel.Generation))
		return rel
	}
	v3 := promoted(second)
	if v3.Image != v2.Image || v3.Config != *second.Config || v3.Provenance != v2.Provenance {
		t.Fatalf("v3 is %+v", v3)
	}
	v4 := promoted(b.must(p, statement.KindResize, app, statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{"web": bulwark.SizeLarge}}))
	b.refused(p, bulwark.KindInvalid, statement.KindResize, app, statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{"web": bulwark.SizeTiny, "wbe": bulwark.SizeTiny}})
	b.refused(p, bulwark.KindConflict, statement.KindResize, b.app(p, "empty"), statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{"web": bulwark.SizeTiny}})
	if v4.Image != v2.Image || v4.Sizes["web"] != bulwark.SizeLarge || v4.Config != *second.Config {
		t.Fatalf("v4 is %+v", v4)
	}
	v5 := promoted(b.must(p, statement.KindRollback, app, statement.Rollback{To: 1}))
	if v5.Image != v1.Image || v5.Config != *second.Config || v5.Generation != 5 {
		t.Fatalf("v5 is %+v: a revoked value must not come back with the image", v5)
	}
	v6 := promoted(b.must(p, statement.KindRollback, app, statement.Rollback{To: 1, Config: true}))
	if v6.Image != v1.Image || v6.Config != *early.Config {
		t.Fatalf("v6 is %+v", v6)
	}
	bundle, _, err := b.Bundle(b.ctx(), app, 6)
	ok(t, err)
	launch, err := b.launches(bundle)
	ok(t, err)
	if string(launch.Values["TOKEN"]) != "one" {
		t.Fatalf("v6 starts with %q", launch.Values["TOKEN"])
	}
	// A rollback of a rollback still leads back to the push that the image was built for.
	if _, _, err := statement.OpenRelease(*bundle, statement.NewKey(b.node.Public().(ed25519.PublicKey))); err != nil {
		t.Fatal(err)
	}
}

// A start is refused unless every part of the bundle is the one that the release names, and the release is current.
func TestLaunch(t *testing.T) {
	b := open(t)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	v1, _ := b.deployed(p, shop, "shop")
	foreign, _ := b.deployed(p, blog, "blog")
	v2, _ := b.deployed(p, shop, "shop")
	candidate := b.pushed(p, shop, "shop")
	b.built(candidate, "shop")
	v3, _, err := b.Release(b.ctx(), candidate.Digest)
	ok(t, err)

	other := open(t) // another installation
	op := other.enrol()
	stranger, _ := other.deployed(op, other.app(op, "shop"), "shop")

	with := func(change func(*statement.Bundle)) statement.Bundle {
		c := *v2
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		bundle statement.Bundle
		want   bulwark.Kind // "" means that it starts
	}{
		"what serves":                           {*v2, ""},
		"the candidate":                         {*v3, ""},
		"an old release":                        {*v1, bulwark.KindForbidden},
		"another installation's release":        {*stranger, bulwark.KindForbidden},
		"with another provenance":               {with(func(s *statement.Bundle) { s.Provenance = v1.Provenance }), bulwark.KindForbidden},
		"with another app's provenance":         {with(func(s *statement.Bundle) { s.Provenance = foreign.Provenance }), bulwark.KindForbidden},
		"with another cause":                    {with(func(s *statement.Bundle) { s.Cause = v1.Cause }), bulwark.KindForbidden},
		"without a cause":                       {with(func(s *statement.Bundle) { s.Cause = nil }), bulwark.KindForbidden},
		"with an origin of its own":             {with(func(s *statement.Bundle) { s.Origin = v1.Cause }), bulwark.KindForbidden},
		"another app's release with it":         {with(func(s *statement.Bundle) { s.Release = foreign.Release }), bulwark.KindForbidden},
		"the provenance in the release's place": {with(func(s *statement.Bundle) { s.Release = s.Provenance }), bulwark.KindForbidden},
		"a release cut short":                   {with(func(s *statement.Bundle) { s.Release = s.Release[:len(s.Release)-2] }), bulwark.KindInvalid},
		"nothing":                               {statement.Bundle{}, bulwark.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Launch(b.ctx(), c.bundle)
			if c.want == "" {
				ok(t, err)
				return
			}
			isKind(t, err, c.want)
		})
	}
}

// What the node's own key signed is not enough: a release whose cause is in no book, such as one that was made after the
// backup that the ledger was restored from, does not start.
func TestLaunchNeedsTheDocument(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.deployed(p, app, "shop")
	cause := []byte("a document that was never accepted")
	r := &ledger.Receipt{Digest: bulwark.Sum(cause), App: app, Kind: statement.KindPush, Person: p.id}
	prov, err := statement.Seal(statement.ProvenancePayloadType, b.provenance(r, "shop", bulwark.Sum([]byte("evil"))), b.node)
	ok(t, err)
	env, err := statement.SealRelease(&statement.Release{Version: 1, Node: b.Node(), Project: bulwark.FirstProject, App: app, Name: "shop", Generation: 1,
		Image: bulwark.Sum([]byte("evil")), Provenance: bulwark.Sum(prov), Cause: statement.Cause{Kind: r.Kind, Person: r.Person, Digest: r.Digest}}, b.node)
	ok(t, err)
	_, err = b.Launch(b.ctx(), statement.Bundle{Release: env, Provenance: prov, Cause: cause})
	isKind(t, err, bulwark.KindForbidden)
}

// The high-water mark of an app only rises, and not beyond what was released.
func TestPromote(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.deployed(p, app, "shop")
	b.deployed(p, app, "shop")
	isKind(t, b.Promote(b.ctx(), app, 1), bulwark.KindConflict)
	isKind(t, b.Promote(b.ctx(), app, 3), bulwark.KindConflict)
	ok(t, b.Promote(b.ctx(), app, 2)) // again, by an operation that is run again
}

// Config changes are made upon the revision that the person saw, by values that were sealed for this very place.
func TestConfig(t *testing.T) {
	b := open(t)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	b.set(p, shop, 0, "TOKEN", "one")
	v := func(app bulwark.AppID, use string, name bulwark.ConfigName, value string) map[bulwark.ConfigName][]byte {
		return map[bulwark.ConfigName][]byte{"TOKEN": b.value(app, use, name, value)}
	}
	for name, c := range map[string]struct {
		body statement.ConfigSet
		want bulwark.Kind
	}{
		"upon an old revision":         {statement.ConfigSet{Base: 0, Set: v(shop, seal.UseConfig, "TOKEN", "x")}, bulwark.KindConflict},
		"upon one that is not yet":     {statement.ConfigSet{Base: 2, Set: v(shop, seal.UseConfig, "TOKEN", "x")}, bulwark.KindConflict},
		"sealed for another app":       {statement.ConfigSet{Base: 1, Set: v(blog, seal.UseConfig, "TOKEN", "x")}, bulwark.KindForbidden},
		"sealed for another name":      {statement.ConfigSet{Base: 1, Set: v(shop, seal.UseConfig, "OTHER", "x")}, bulwark.KindForbidden},
		"sealed as a build secret":     {statement.ConfigSet{Base: 1, Set: v(shop, seal.UseBuild, "TOKEN", "x")}, bulwark.KindForbidden},
		"not sealed":                   {statement.ConfigSet{Base: 1, Set: map[bulwark.ConfigName][]byte{"TOKEN": []byte("plain")}}, bulwark.KindForbidden},
		"with a NUL":                   {statement.ConfigSet{Base: 1, Set: v(shop, seal.UseConfig, "TOKEN", "a\x00b")}, bulwark.KindInvalid},
		"longer than an environment's": {statement.ConfigSet{Base: 1, Set: v(shop, seal.UseConfig, "TOKEN", strings.Repeat("x", seal.MaxValue+1))}, bulwark.KindTooLarge},
		"both set and unset":           {statement.ConfigSet{Base: 1, Set: v(shop, seal.UseConfig, "TOKEN", "x"), Unset: []bulwark.ConfigName{"TOKEN"}}, bulwark.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) { b.refused(p, c.want, statement.KindConfigSet, shop, c.body) })
	}
	for _, name := range []string{"BULWARK_APP", "PORT", "A-B", "", "A=B", "A\x00"} {
		_, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindConfigSet, shop, map[string]any{"base": 1, "set": map[string][]byte{name: []byte("x")}}))
		isKind(t, err, bulwark.KindInvalid)
	}
	// Nothing of the refused ones happened, and the longest value goes.
	r := b.set(p, shop, 1, "LONG", strings.Repeat("x", seal.MaxValue))
	if r.Config.Revision != 2 {
		t.Fatalf("revision %d", r.Config.Revision)
	}
	b.must(p, statement.KindConfigSet, shop, statement.ConfigSet{Base: 2, Unset: []bulwark.ConfigName{"LONG"}})
	bundle, rel := b.deployed(p, shop, "shop")
	launch, err := b.launches(bundle)
	ok(t, err)
	if rel.Config.Revision != 3 || len(launch.Values) != 1 || string(launch.Values["TOKEN"]) != "one" {
		t.Fatalf("revision %d starts with %d values", rel.Config.Revision, len(launch.Values))
	}
}

// A revision's identity is that of its plaintexts: sealing again changes nothing, another value does.
func TestConfigIdentity(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	digest := func(base uint64, v string) bulwark.Digest { return b.set(p, app, base, "TOKEN", v).Config.Digest }
	one, again, two := digest(0, "one"), digest(1, "one"), digest(2, "two")
	if one != again || one == two {
		t.Fatalf("%s, %s, %s", one, again, two)
	}
}

// A value is revealed to the key that the person named, and to nobody else.
func TestReveal(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.set(p, app, 0, "TOKEN", "one")
	mine, err := seal.GenerateKey()
	ok(t, err)
	r := b.sign(p.device, statement.KindConfigReveal, app, statement.ConfigReveal{Name: "TOKEN", Recipient: mine.Public()})
	sealed, err := b.Reveal(b.ctx(), r)
	ok(t, err)
	v, err := mine.Open(b.place(app, seal.UseReveal, "TOKEN"), sealed)
	ok(t, err)
	if string(v) != "one" {
		t.Fatalf("revealed %q", v)
	}
	_, err = b.private().Open(b.place(app, seal.UseReveal, "TOKEN"), sealed)
	isKind(t, err, bulwark.KindForbidden)
	_, err = mine.Open(b.place(app, seal.UseConfig, "TOKEN"), sealed) // it cannot be set as a value again
	isKind(t, err, bulwark.KindForbidden)
	for name, body := range map[string]statement.ConfigReveal{"a variable that is none": {Name: "NONE", Recipient: mine.Public()}} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Reveal(b.ctx(), b.sign(p.device, statement.KindConfigReveal, app, body))
			isKind(t, err, bulwark.KindNotFound)
		})
	}
	if _, err := b.Reveal(b.ctx(), b.sign(p.device, statement.KindConfigReveal, app, statement.ConfigReveal{Name: "TOKEN", Recipient: []byte("no key")})); err == nil {
		t.Fatal("a value was revealed to a key that is none")
	}
}

// Build secrets are of one app, and are no config.
func TestBuildSecrets(t *testing.T) {
	b := open(t)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	set := func(use string, place bulwark.AppID) statement.ConfigSet {
		return statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{"NPM_TOKEN": b.value(place, use, "NPM_TOKEN", "s")}}
	}
	b.must(p, statement.KindBuildSecret, shop, set(seal.UseBuild, shop))
	b.refused(p, bulwark.KindForbidden, statement.KindBuildSecret, blog, set(seal.UseBuild, shop))
	b.refused(p, bulwark.KindForbidden, statement.KindBuildSecret, shop, set(seal.UseConfig, shop))
	for app, n := range map[bulwark.AppID]int{shop: 1, blog: 0} {
		if got, err := b.BuildSecrets(b.ctx(), app); err != nil || len(got) != n {
			t.Fatalf("%d build secrets, %v", len(got), err)
		}
	}
}

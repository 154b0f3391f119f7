package ledger_test

import (
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The newest ten images of an app stay, and those of what serves and is newer, however many there are; a rollback to one that
// went says what to do. What a destroyed app had goes, unless something still runs from it.
func TestCollect(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app, other := b.app(p, "shop"), b.app(p, "blog")
	_, first := b.deployed(p, app, "shop")
	_, blog := b.deployed(p, other, "blog")
	var images []bulwark.Digest
	for range 14 {
		push := b.pushed(p, app, "shop")
		images = append(images, b.built(push, "shop"))
		_, _, err := b.Release(b.ctx(), push.Digest)
		ok(t, err)
	}
	built := b.built(b.pushed(p, app, "shop"), "shop") // and not released yet

	stay, err := b.Collect(b.ctx(), nil)
	ok(t, err)
	for i, d := range append(images, first.Image, blog.Image, built) {
		if _, there := stay[d]; !there {
			t.Errorf("image %d went, though v1 serves and all others are newer", i)
		}
	}
	ok(t, b.Promote(b.ctx(), app, 15))
	stay, err = b.Collect(b.ctx(), nil)
	ok(t, err)
	if len(stay) != ledger.KeepImages+2 { // of another app, and the one that is not released
		t.Fatalf("%d images stay", len(stay))
	}
	for i, d := range images {
		if _, there := stay[d]; there != (i >= len(images)-ledger.KeepImages) {
			t.Errorf("image %d: %t", i, there)
		}
		_, _, err := b.Layers(b.ctx(), d)
		if _, there := stay[d]; there != (err == nil) {
			t.Errorf("image %d: the book says %v", i, err)
		}
	}
	back := b.must(p, statement.KindRollback, app, statement.Rollback{To: 2})
	if _, _, err := b.Release(b.ctx(), back.Digest); bulwark.KindOf(err) != bulwark.KindNotFound ||
		!strings.Contains(err.Error(), "The image of release v2 of shop is no longer kept") || !strings.Contains(err.Error(), "Push its commit again.") {
		t.Fatal(err)
	}
	back = b.must(p, statement.KindRollback, app, statement.Rollback{To: 10})
	_, r, err := b.Release(b.ctx(), back.Digest)
	ok(t, err)
	if r.Image != images[8] {
		t.Fatal(r.Image)
	}

	b.must(p, statement.KindAppDestroy, other, statement.AppDestroy{Name: "blog"})
	if gone, err := b.Final(b.ctx(), other); !gone || err != nil {
		t.Fatal(gone, err)
	}
	if gone, err := b.Final(b.ctx(), app); gone || err != nil {
		t.Fatal(gone, err)
	}
	stay, err = b.Collect(b.ctx(), []bulwark.Digest{blog.Image})
	ok(t, err)
	if _, there := stay[blog.Image]; !there {
		t.Fatal("an image went from under a running instance")
	}
	stay, err = b.Collect(b.ctx(), nil)
	ok(t, err)
	if _, there := stay[blog.Image]; there {
		t.Fatal("the image of a destroyed app stays")
	}
}

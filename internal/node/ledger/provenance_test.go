package ledger_test

import (
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// What was signed for a build's image can be read by the build's id, and says which documents were written about it.
func TestProvenance(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	r := b.pushed(p, app, "shop")
	id, document := bulwark.NewBuildID(), bulwark.Sum([]byte("document"))
	made := b.provenance(r, "shop", bulwark.Sum([]byte("image")))
	made.Predicate.RunDetails.Byproducts = []statement.Resource{{Name: "x", MediaType: "application/x", Digest: map[string]string{"sha256": document.Hex()}}}
	env, err := b.Admit(b.ctx(), id, r.Digest, made)
	ok(t, err)
	got, read, err := b.Provenance(b.ctx(), id)
	ok(t, err)
	if string(got) != string(env) || read.Byproduct("application/x") != document || read.Byproduct("application/y") != "" {
		t.Fatalf("%s", got)
	}
	_, _, err = b.Provenance(b.ctx(), bulwark.NewBuildID())
	isKind(t, err, bulwark.KindNotFound)
}

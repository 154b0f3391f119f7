package ledger_test

import (
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A command runs once, from the release that serves, whoever sends the statement again.
func TestRunOnce(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	body := statement.Run{Argv: []string{"rake", "db:drop"}, Recipient: []byte("key")}
	_, _, _, err := b.Run(b.ctx(), b.sign(p.device, statement.KindRun, app, body))
	isKind(t, err, bulwark.KindConflict) // no release yet

	want, _ := b.deployed(p, app, "shop")
	b.pushed(p, app, "shop") // something newer that does not serve
	env := b.sign(p.device, statement.KindRun, app, body)
	r, got, bundle, err := b.Run(b.ctx(), env)
	ok(t, err)
	if r.App != app || r.Person != p.id || got.Argv[1] != "db:drop" || bundle == nil || string(bundle.Release) != string(want.Release) {
		t.Error(r, got)
	}
	_, _, _, err = b.Run(b.ctx(), env)
	isKind(t, err, bulwark.KindForbidden)
	_, _, _, err = b.Run(b.ctx(), padded(env)) // the same statement in other bytes
	isKind(t, err, bulwark.KindForbidden)

	// One that was accepted by another verb is used up too: it starts nothing, then or later.
	env = b.sign(p.device, statement.KindRun, app, body)
	if _, err := b.Submit(b.ctx(), env); err == nil {
		_, _, _, err = b.Run(b.ctx(), env)
		isKind(t, err, bulwark.KindForbidden)
	}
}

func TestRunRefuses(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.deployed(p, app, "shop")
	key := []byte("key")
	for name, body := range map[string]statement.Run{
		"no command":          {Recipient: key},
		"an empty command":    {Argv: []string{""}, Recipient: key},
		"a NUL":               {Argv: []string{"a\x00b"}, Recipient: key},
		"nobody listens":      {Argv: []string{"ls"}},
		"detached, listening": {Argv: []string{"ls"}, Recipient: key, Detach: true},
		"detached terminal":   {Argv: []string{"ls"}, Terminal: true, Detach: true},
	} {
		if _, _, _, err := b.Run(b.ctx(), b.sign(p.device, statement.KindRun, app, body)); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, _, err := b.Run(b.ctx(), b.sign(p.device, statement.KindRun, app, statement.Run{Argv: []string{strings.Repeat("x", 64<<10)}, Recipient: key}))
	isKind(t, err, bulwark.KindTooLarge)
	_, _, _, err = b.Run(b.ctx(), b.sign(newKey(t), statement.KindRun, app, statement.Run{Argv: []string{"ls"}, Recipient: key}))
	isKind(t, err, bulwark.KindForbidden)
	_, _, _, err = b.Run(b.ctx(), b.sign(p.device, statement.KindRun, bulwark.NewAppID(), statement.Run{Argv: []string{"ls"}, Recipient: key}))
	isKind(t, err, bulwark.KindNotFound)
	_, _, _, err = b.Run(b.ctx(), b.sign(p.device, statement.KindRollback, app, statement.Rollback{To: 1}))
	isKind(t, err, bulwark.KindInvalid)
}

// A detached command that the server kept back does not run when nobody expects it any more.
func TestRunDetachedIsFresh(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.deployed(p, app, "shop")
	body := statement.Run{Argv: []string{"rake", "mail:all"}, Detach: true}
	_, _, _, err := b.Run(b.ctx(), b.sign(p.device, statement.KindRun, app, body))
	ok(t, err)
	env := b.sign(p.device, statement.KindRun, app, body)
	b.clock = b.clock.Add(11 * time.Minute)
	_, _, _, err = b.Run(b.ctx(), env)
	isKind(t, err, bulwark.KindForbidden)
}

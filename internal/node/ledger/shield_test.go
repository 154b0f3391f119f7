package ledger_test

import (
	"slices"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A shield is what was signed, step by step; it goes with its app, and comes back with it.
func TestShield(t *testing.T) {
	f, _ := newFull(t)
	set := func(c bulwark.ShieldChange) {
		t.Helper()
		f.must(f.p, statement.KindShieldSet, f.app, statement.Shield{Change: c})
	}
	is := func(n int, mode bulwark.WAFMode) {
		t.Helper()
		all, err := f.Shields(f.ctx())
		ok(t, err)
		if len(all) != n {
			t.Fatalf("%d shields, want %d", len(all), n)
		}
		if n == 1 && (all[0].App != f.app || all[0].Shield.WAF != mode || !slices.Equal(all[0].Hosts, []bulwark.HostName{"www.example.net", "shop.apps.example.org"})) {
			t.Errorf("%+v", all[0])
		}
	}
	is(0, "")
	if s, err := f.Shield(f.ctx(), f.app); err != nil || s.WAF != "" {
		t.Errorf("of an app that has none: %+v %v", s, err)
	}
	set(bulwark.ShieldChange{WAF: bulwark.WAFBlock})
	set(bulwark.ShieldChange{Exclude: []bulwark.Exclusion{{Rule: 942100}}})
	is(1, bulwark.WAFBlock)
	if s, err := f.Shield(f.ctx(), f.app); err != nil || s.WAF != bulwark.WAFBlock || len(s.Exclude) != 1 {
		t.Errorf("%+v %v", s, err)
	}
	f.refused(f.p, bulwark.KindInvalid, statement.KindShieldSet, f.app, statement.Shield{})
	f.refused(f.p, bulwark.KindNotFound, statement.KindShieldSet, f.app, statement.Shield{Change: bulwark.ShieldChange{Unlimit: []bulwark.LimitName{{Per: bulwark.PerApp}}}})
	is(1, bulwark.WAFBlock)
	f.destroy(f.p, f.app, "shop")
	is(0, "")
	f.must(f.p, statement.KindAppRestore, f.app, statement.AppRestore{Name: "shop"})
	is(1, bulwark.WAFBlock)
	f.must(f.p, statement.KindAppDestroy, f.app, statement.AppDestroy{Name: "shop", Now: true})
	is(0, "")
	if _, err := f.Shield(f.ctx(), f.app); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("of an app that is gone: %v", err)
	}
}

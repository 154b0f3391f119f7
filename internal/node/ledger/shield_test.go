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

// A host of another app's that is part of a pattern with a shield is told with its own, which is none: the pattern's is not for it.
func TestShieldOfAPattern(t *testing.T) {
	b := open(t)
	p := b.enrol()
	many, one, away := b.app(p, "many"), b.app(p, "one"), b.app(p, "away")
	for host, app := range map[bulwark.HostName]bulwark.AppID{"*.example.net": many, "www.example.net": one, "api.example.net": one, "a.b.example.net": away, "www.example.com": away} {
		b.must(p, statement.KindDomainAdd, app, statement.Domain{Host: host})
	}
	shields := func() map[bulwark.AppID]bulwark.Shielded {
		all, err := b.Shields(b.ctx())
		ok(t, err)
		out := map[bulwark.AppID]bulwark.Shielded{}
		for _, s := range all {
			out[s.App] = s
		}
		return out
	}
	if got := shields(); len(got) != 0 {
		t.Fatal(got)
	}
	b.must(p, statement.KindShieldSet, many, statement.Shield{Change: bulwark.ShieldChange{Maintenance: bulwark.MaintenanceOn}})
	got := shields()
	if len(got) != 2 || got[many].Shield.Maintenance != bulwark.MaintenanceOn || got[one].Shield.Maintenance != "" || !slices.Equal(got[one].Hosts, []bulwark.HostName{"api.example.net", "www.example.net"}) {
		t.Fatalf("%+v", got)
	}
}

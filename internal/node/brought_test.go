package node

import (
	"log/slog"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// What an authority says of a name gives way to what people brought, until that is over.
func TestBroughtOver(t *testing.T) {
	b := brought{states: map[bulwark.HostName]certsapi.Status{
		"a.example.org": {Host: "a.example.org", Stage: certsapi.Brought, NotAfter: time.Now().Add(time.Hour)},
		"b.example.org": {Host: "b.example.org", Stage: certsapi.Brought, NotAfter: time.Now().Add(-time.Hour)},
		"c.example.org": {Host: "c.example.org", Stage: certsapi.Brought, NotAfter: time.Now().Add(-time.Hour)},
	}}
	got := map[bulwark.HostName]certsapi.Stage{}
	for _, s := range b.over([]certsapi.Status{{Host: "a.example.org", Stage: certsapi.Issued}, {Host: "b.example.org", Stage: certsapi.Issued},
		{Host: "c.example.org", Stage: certsapi.Waiting}, {Host: "d.example.org", Stage: certsapi.Issuing}}) {
		if got[s.Host] != "" {
			t.Fatal("twice", s.Host)
		}
		got[s.Host] = s.Stage
	}
	for h, want := range map[bulwark.HostName]certsapi.Stage{"a.example.org": certsapi.Brought, "b.example.org": certsapi.Issued, "c.example.org": certsapi.Brought, "d.example.org": certsapi.Issuing} {
		if got[h] != want {
			t.Errorf("%s: %s", h, got[h])
		}
	}
}

// Nobody brought anything: all names are asked for.
func TestNothingBrought(t *testing.T) {
	l, _ := pushedLedger(t)
	var b brought
	out, wanted := b.now(t.Context(), l, []bulwark.HostName{"a.example.org"}, time.Now(), slog.New(slog.DiscardHandler))
	if len(out) != 0 || len(wanted) != 1 {
		t.Fatal(out, wanted)
	}
}

package server

import (
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// A certificate that should have been renewed is an alarm weeks before it ends, to whom it concerns and to nobody else.
func TestAlarm(t *testing.T) {
	now := time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	state := func(host bulwark.HostName, ends time.Duration) certsapi.Status {
		return certsapi.Status{Host: host, Stage: certsapi.Issued, NotAfter: now.Add(ends), RenewAt: now.Add(ends - 30*day)}
	}
	asks := map[bulwark.HostName]bool{"a.example.org": true, "b.example.org": true, "c.example.org": true}
	for want, states := range map[string][]certsapi.Status{
		"ok": {state("a.example.org", 60*day), state("b.example.org", 28*day), state("elsewhere.example.org", day), {Host: "c.example.org", Stage: certsapi.Waiting}},
		"a.example.org ends on 2026-12-19 and was not renewed; see bulwark certs":             {state("a.example.org", 26*day), state("b.example.org", 80*day)},
		"b.example.org ends on 2026-11-25 and was not renewed, and 1 more; see bulwark certs": {state("a.example.org", 20*day), state("b.example.org", 2*day)},
	} {
		if got := alarm(states, asks, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := alarm(states, nil, now); got != "ok" || strings.Contains(got, "example") {
			t.Errorf("to a stranger: %q", got)
		}
	}
}

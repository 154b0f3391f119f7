package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func TestAttempts(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	a := newAttempts(time.Second, 3)
	a.now = func() time.Time { return now }
	take := func(from string, want bool) {
		t.Helper()
		if err := a.take(from); (err == nil) != want || err != nil && bulwark.KindOf(err) != bulwark.KindBusy {
			t.Errorf("%s: %v", from, err)
		}
	}
	for range 3 {
		take("198.51.100.7:1000", true)
	}
	take("198.51.100.7:1001", false) // another port is the same address
	take("[::ffff:198.51.100.7]:1", false)
	take("198.51.100.8:1000", true)
	if a.full("198.51.100.7:1") == nil || a.full("198.51.100.8:1") != nil {
		t.Error("full counts wrongly")
	}
	now = now.Add(time.Second)
	take("198.51.100.7:1000", true)
	take("198.51.100.7:1000", false)
	// An IPv6 network counts as one.
	for i := range 3 {
		take(fmt.Sprintf("[2001:db8:0:1::%d]:1", i), true)
	}
	take("[2001:db8:0:1:ffff::]:1", false)
	take("[2001:db8:0:2::]:1", true)
	for i := range 3 * maxRemembered {
		_ = a.take(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if len(a.all) > maxRemembered {
		t.Errorf("%d addresses are remembered", len(a.all))
	}
}

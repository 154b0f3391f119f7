package bulwark_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func TestForgetClient(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	line := func(age time.Duration, client string) []byte {
		return fmt.Appendf(nil, `{"time":%q,"id":"1","path":"/,\"client\":\"9.9.9.9\"","status":200,"proto":"HTTP/2.0","client":%q,"fault":"x"}`+"\n",
			now.Add(-age).Format("2006-01-02T15:04:05.000Z"), client)
	}
	for client, want := range map[string]string{"203.0.113.77": "203.0.113.0", "1.2.3.4": "1.2.3.0", "2001:db8:1:2:3::4": "2001:db8:1::", "::1": "::", "::ffff:203.0.113.9": "203.0.113.0",
		"2001:db8::1": "2001:db8::", "fe80::1%eth0": "fe80::", "nonsense": "", "1:2:3:4:5:6:7:8": "1:2:3::"} {
		young := line(bulwark.ClientsKnown-time.Minute, client)
		if bulwark.ForgetClient(young, now) || !strings.Contains(string(young), client) {
			t.Errorf("%s is forgotten too early", client)
		}
		old := line(bulwark.ClientsKnown, client)
		size := len(old)
		if !bulwark.ForgetClient(old, now) {
			t.Errorf("%s is not forgotten", client)
		}
		var e bulwark.AccessEvent
		if err := json.Unmarshal(old, &e); err != nil || e.Client != want || e.Fault != "x" || !strings.Contains(e.Path, "9.9.9.9") || len(old) != size {
			t.Errorf("%s: %q %v\n%s", client, e.Client, err, old)
		}
		if bulwark.ForgetClient(old, now) {
			t.Errorf("%s is forgotten twice", client)
		}
	}
	for _, s := range []string{"", "{}", `{"time":"2020"}`, `{"time":"2020-01-01T00:00:00.000Z"`, `{"time":"2020-01-01T00:00:00.000Z","client":"1.2.3.4`, "plain text"} {
		if b := []byte(s); bulwark.ForgetClient(b, now) || string(b) != s {
			t.Errorf("%q is changed", s)
		}
	}
}

func FuzzForgetClient(f *testing.F) {
	f.Add([]byte(`{"time":"2020-01-01T00:00:00.000Z","client":"1.2.3.4"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		was := json.Valid(b)
		bulwark.ForgetClient(b, time.Now())
		if was && !json.Valid(b) {
			t.Errorf("%q", b)
		}
	})
}

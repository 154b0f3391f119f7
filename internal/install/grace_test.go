package install

import (
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func TestParseGrace(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "0s": 0, "90s": 90 * time.Second, "168h": DefaultGrace, "2160h": MaxGrace} {
		g, err := ParseGrace(text)
		if err != nil || g.Duration() != want {
			t.Errorf("%q is %s, %v", text, g.Duration(), err)
		}
	}
	for text, want := range map[string]string{"": "cannot be read", "a week": "cannot be read", "7": "cannot be read", "-1h": "from 0 to 2160h", "2161h": "from 0 to 2160h"} {
		if _, err := ParseGrace(text); bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Who says nothing gets a week, who says none gets none, and what was said stays until something else is.
func TestGraceIsKept(t *testing.T) {
	i := &Installation{Root: "/var/lib/bulwark"}
	for _, c := range []struct {
		wish Grace
		want time.Duration
	}{{"", DefaultGrace}, {"0s", 0}, {"", 0}, {"1h0m0s", time.Hour}, {"", time.Hour}} {
		if err := i.merge(Options{Grace: c.wish}); err != nil {
			t.Fatal(err)
		}
		if got := i.Grace.Duration(); got != c.want {
			t.Errorf("after %q it is %s", c.wish, got)
		}
	}
	i.Grace = "soon"
	if i.valid() == nil {
		t.Error("a file that says soon is taken")
	}
	if got := i.Grace.Duration(); got != MaxGrace {
		t.Errorf("what cannot be read is %s", got)
	}
}

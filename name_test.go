package bulwark_test

import (
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestParseHostPattern(t *testing.T) {
	for text, want := range map[string]bulwark.HostName{"www.example.org": "www.example.org", "*.Example.org.": "*.example.org"} {
		if got, err := bulwark.ParseHostPattern(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "*", "*.", "*.org", "*.*.example.org", "a.*.example.org", "a*.example.org", "*.example.org/", "**.example.org", "*.1.2"} {
		if got, err := bulwark.ParseHostPattern(text); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := bulwark.ParseHostName("*.example.org"); err == nil {
		t.Error("a pattern is no host name")
	}
}

// A pattern's names are those of which the part above is what the pattern is of; what is read again is the same.
func FuzzParseHostPattern(f *testing.F) {
	f.Add("*.example.org")
	f.Add("-.example.org")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := bulwark.ParseHostPattern(text)
		if err != nil {
			return
		}
		if again, err := bulwark.ParseHostPattern(string(n)); err != nil || again != n {
			t.Fatalf("%q is read as %q, and that as %q (%v)", text, n, again, err)
		}
		below, is := n.Wildcard()
		if is && ("x."+below).Above() != below {
			t.Fatalf("x.%s is not below %s", below, n)
		}
		if !is && n.Above() != "" && "*."+n.Above() == n {
			t.Fatal(n)
		}
	})
}

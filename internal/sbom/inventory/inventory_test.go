package inventory_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// What a process without rights says is taken if it is an inventory, whole and within the bounds, and else refused.
func TestDecode(t *testing.T) {
	find := func(c string) string { return `{"finds":[{"path":"a","components":[` + c + `]}]}` }
	many := strings.TrimSuffix(strings.Repeat(`{"kind":"npm","name":"a","version":"1"},`, inventory.MaxComponents+1), ",")
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"nothing":                        {`{}`, true},
		"a package of each kind":         {find(`{"kind":"deb","name":"libc6","version":"2.36-9+deb12u10","arch":"amd64","source":"glibc"},{"kind":"golang","name":"example.org/a/v2"},{"kind":"npm","name":"@types/node","version":"1.0.0-rc.1"},{"kind":"pypi","name":"Flask","version":"3!1.0+local"},{"kind":"node","name":"node","version":"22.1.0"}`), true},
		"a system, whiteouts, remarks":   {`{"gone":["a/b"],"opaque":["c"],"os":{"id":"debian","version":"12"},"remarks":[{"path":"x%0A","why":"too large"}]}`, true},
		"an unknown field":               {`{"run":"me"}`, false},
		"something behind":               {`{} {}`, false},
		"no JSON":                        {"\x00", false},
		"a kind that is none":            {find(`{"kind":"rpm","name":"a","version":"1"}`), false},
		"a name that drives a terminal":  {find(`{"kind":"npm","name":"a\u001b[2J","version":"1"}`), false},
		"a name of another line":         {find(`{"kind":"deb","name":"a\nb","version":"1"}`), false},
		"a name with a path":             {find(`{"kind":"npm","name":"../../etc/passwd","version":"1"}`), false},
		"a name that is a URL":           {find(`{"kind":"golang","name":"a?b=c#d","version":"1"}`), false},
		"no name":                        {find(`{"kind":"npm","version":"1"}`), false},
		"no version":                     {find(`{"kind":"npm","name":"a"}`), false},
		"a version with a quote":         {find(`{"kind":"npm","name":"a","version":"1\""}`), false},
		"a source of what is no Debian":  {find(`{"kind":"npm","name":"a","version":"1","source":"b"}`), false},
		"a name that is too long":        {find(`{"kind":"npm","name":"` + strings.Repeat("a", 215) + `","version":"1"}`), false},
		"too many":                       {find(many), false},
		"too much text":                  {`{"gone":["` + strings.Repeat("a", 500) + `"` + strings.Repeat(`,"`+strings.Repeat("a", 500)+`"`, 17_000) + `]}`, false},
		"larger than any":                {strings.Repeat(" ", inventory.MaxEncoded) + `{}`, false},
		"a path with a control":          {`{"gone":["a\tb"]}`, false},
		"an absolute path":               {`{"gone":["/a"]}`, false},
		"an empty path":                  {`{"gone":[""]}`, false},
		"a reason of somebody's own":     {`{"remarks":[{"why":"all is well"}]}`, false},
		"a system of somebody's own":     {`{"os":{"id":"Debian <b>"}}`, false},
		"remarks without end":            {`{"remarks":[{"why":"failed"}` + strings.Repeat(`,{"why":"failed"}`, inventory.MaxRemarks) + `]}`, false},
		"a list that is deep":            {strings.Repeat("[", 100_000), false},
		"a component that is a list":     {find(`[]`), false},
		"a name that is no text":         {find(`{"kind":"npm","name":{"a":1},"version":"1"}`), false},
		"a find without a path":          {`{"finds":[{}]}`, false},
		"a find that holds its place":    {`{"finds":[{"path":"var/lib/dpkg/status"}]}`, true},
		"an architecture that is a list": {find(`{"kind":"deb","name":"a","version":"1","arch":"amd64, i386"}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := inventory.Decode([]byte(c.text)); (err == nil) != c.ok {
				t.Fatal(err)
			}
		})
	}
}

// Each path has one form, and two paths never the same.
func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"usr/bin/x": "usr/bin/x", "/usr": "usr", "a\nb": "a%0Ab", "a%0Ab": "a%250Ab", "ü": "%C3%BC", "\xff": "%FF", "a b": "a b",
		strings.Repeat("a", inventory.MaxPath+1): "", strings.Repeat("ü", inventory.MaxPath/4): "",
	} {
		if got := inventory.Path(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// FuzzDecode: what is taken can be written and is taken again, the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"finds":[{"path":"a","components":[{"kind":"deb","name":"libc6","version":"2.36","arch":"amd64"}]}],"gone":["b"],"os":{"id":"debian"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := inventory.Decode(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := inventory.Decode(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

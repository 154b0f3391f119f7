package catalog

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// each parser must end without a panic and with components that find can judge.
func fuzzed(f *testing.F, parse func(io.Reader) ([]inventory.Component, error), seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		found, _ := parse(bytes.NewReader(b))
		if len(found) > inventory.MaxComponents+1 {
			t.Fatalf("%d components", len(found))
		}
		c := &cataloguer{limits: DefaultLimits}
		if err := c.find("fuzzed", found); err != nil && len(found) < 1000 {
			t.Fatal(err)
		}
		through(t, &c.out)
	})
}

func FuzzDpkg(f *testing.F) {
	fuzzed(f, func(r io.Reader) ([]inventory.Component, error) { return dpkg(r, true) }, status)
}

func FuzzNPM(f *testing.F) {
	fuzzed(f, npm, `{"name":"@a/b","version":"1.0.0"}`, "\xef\xbb\xbf{}")
}

func FuzzPython(f *testing.F) {
	fuzzed(f, python, "Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\n\nText")
}

func FuzzGoModules(f *testing.F) {
	fuzzed(f, func(r io.Reader) ([]inventory.Component, error) {
		b, err := io.ReadAll(r)
		found, _ := goModules(&ranges{of: bytes.NewReader(b), size: int64(len(b)), left: 1 << 20})
		return found, err
	}, "\x7fELF\x02\x01\x01\x00")
}

func FuzzOSRelease(f *testing.F) {
	f.Add([]byte("ID=debian\nVERSION_ID=\"12\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o := osRelease(b); o.Good() {
			through(t, &inventory.Layer{OS: &o})
		}
	})
}

// FuzzLayer: a file system that a stranger spoilt.
func FuzzLayer(f *testing.F) {
	b, err := os.ReadFile(layer(f, map[string]string{"var/lib/dpkg/status": status, "node_modules/a/package.json": `{"name":"a","version":"1"}`,
		"d/e/.wh.f": "", "bin/x": "\x7fELF" + string(make([]byte, 100))}).Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	few := DefaultLimits
	few.Entries, few.Program = 1000, 1<<20
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := Layer(bytes.NewReader(b), few); err == nil {
			through(t, l)
		}
	})
}

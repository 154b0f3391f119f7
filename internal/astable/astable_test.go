package astable

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func imported(t testing.TB, text string) *Table {
	t.Helper()
	path := filepath.Join(t.TempDir(), "networks")
	b, err := Compile(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	table, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestFormats(t *testing.T) {
	for name, text := range map[string]string{
		"ranges":   "1.0.0.0\t1.0.0.255\t13335\tUS\tCLOUDFLARENET\n1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n2001:db8::\t2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\t64500\tZZ\tX\n",
		"networks": "# of today\n1.0.0.0/24 13335\n2001:db8::/32 AS64500\n",
		"lengths":  "1.0.0.0\t24\t13335_4\n2001:db8::\t32\t{64500,1}\n",
	} {
		table := imported(t, text)
		for addr, want := range map[string]bulwark.ASN{"1.0.0.0": 13335, "1.0.0.255": 13335, "1.0.1.0": 0, "0.255.255.255": 0, "2001:db8::1": 64500, "2001:db9::": 0, "::": 0, "::1": 0} {
			if got := table.Of(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s: %s is of %s, not %s", name, addr, got, want)
			}
		}
		if !table.Has(13335) || table.Has(1) || table.Has(0) {
			t.Error(name, "has the wrong numbers")
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprint(w, "1.0.0.0/24 13335\n")
	w.Close()
	if table := imported(t, z.String()); !table.Has(13335) {
		t.Error("what is compressed is not read")
	}
}

func TestWithinEachOther(t *testing.T) {
	table := imported(t, "10.0.0.0/8 1\n10.1.0.0/16 2\n10.1.1.0/24 3\n10.1.1.0/24 4\n10.255.0.0/16 5\n255.255.255.0/24 6\n::/0 7\nffff::/16 8\n")
	for addr, want := range map[string]bulwark.ASN{"10.0.0.1": 1, "10.1.0.1": 2, "10.1.1.1": 4, "10.1.2.0": 2, "10.2.0.0": 1, "10.254.255.255": 1, "10.255.1.1": 5, "11.0.0.0": 7,
		"255.255.255.255": 6, "9.255.255.255": 7, "2001::": 7, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": 8, "::": 7} {
		if got := table.Of(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is of %s, not %s", addr, got, want)
		}
	}
}

// What was flattened says of each address what the narrowest network around it does.
func TestFlatten(t *testing.T) {
	for seed := range uint64(200) {
		dice := rand.New(rand.NewPCG(seed, 1))
		var text strings.Builder
		var nets []netip.Prefix
		for i := range 1 + dice.IntN(40) {
			p, _ := netip.AddrFrom4([4]byte{10, 0, byte(dice.IntN(4)), byte(dice.IntN(256))}).Prefix(20 + dice.IntN(13))
			nets = append(nets, p)
			fmt.Fprintf(&text, "%s %d\n", p, i+1)
		}
		table := imported(t, text.String())
		for range 300 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(dice.IntN(5)), byte(dice.IntN(256))})
			want, bits := bulwark.ASN(0), -1
			for i, p := range nets {
				if p.Contains(a) && p.Bits() >= bits {
					want, bits = bulwark.ASN(i+1), p.Bits()
				}
			}
			if got := table.Of(a); got != want {
				t.Fatalf("seed %d: %s is of %s, not %s in\n%s", seed, a, got, want, text.String())
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "1.0.0.0 13335\n", "x y z\n", "1.0.0.9 1.0.0.1 5\n", "1.0.0.0/24 -5\n", "1.0.0.0 33 5\n", "1.0.0.0 ::1 5\n", "1.0.0.0/24 99999999999\n", "1.0.0.0 1.0.0.9 0\n", strings.Repeat("1", maxLine+1)} {
		if _, err := Compile(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q is taken", text)
		}
	}
	path := filepath.Join(t.TempDir(), "networks")
	if table, err := Open(path); table != nil || err != nil {
		t.Error("without a file:", table, err)
	}
	for _, damaged := range []string{"", "x", magic + "short", strings.Repeat("x", len(magic)+recordSize)} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil {
			t.Errorf("%q is a table", damaged)
		}
	}
	var none *Table
	if none.Of(netip.MustParseAddr("1.1.1.1")) != 0 || none.Has(1) || (&Table{}).Of(netip.MustParseAddr("1.1.1.1")) != 0 {
		t.Error("no table knows somebody")
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"1.0.0.0/24 13335\n", "1.0.0.0\t1.0.0.255\t13335\tUS\n", "1.0.0.0 24 1_2", "::/0 7\n10.0.0.0/8 {1,2}\n", "\x1f\x8b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := Compile(bytes.NewReader(text))
		if err != nil {
			return
		}
		table := &Table{records: b[len(magic):]}
		for i := 1; i < len(table.records)/recordSize; i++ {
			if bytes.Compare(table.records[(i-1)*recordSize:(i-1)*recordSize+16], table.records[i*recordSize:i*recordSize+16]) >= 0 {
				t.Fatalf("%q is not in order", text)
			}
		}
	})
}

func BenchmarkOf(b *testing.B) {
	var text strings.Builder
	for i := range 1 << 18 {
		fmt.Fprintf(&text, "%d.%d.%d.0/24 %d\n", 1+i>>16, i>>8&255, i&255, i+1)
	}
	table := imported(b, text.String())
	a := netip.MustParseAddr("2.3.4.5")
	for b.Loop() {
		table.Of(a)
	}
}

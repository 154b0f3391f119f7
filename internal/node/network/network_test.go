package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// Rules that are made from the matrix are taken by the kernel, and a change by somebody else is seen.
func TestRulesInForce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a network namespace, so it runs as root: make test")
	}
	path := filepath.Join(t.TempDir(), "namespaces", "router")
	r, err := Open(path, nil)
	t.Cleanup(func() { // also of what is left half made
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = unix.Unmount(filepath.Dir(path), unix.MNT_DETACH)
	})
	if err != nil {
		t.Fatal(err)
	}
	generation := func() uint32 {
		t.Helper()
		g, err := r.Generation()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	before := generation()
	rules := Rules([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		[]Exception{{From: netip.MustParseAddr("198.18.0.1"), To: netip.MustParseAddrPort("10.0.0.5:5432")}}, []netip.AddrPort{netip.MustParseAddrPort("198.18.0.9:8080")})
	if err := r.Apply(t.Context(), rules); err != nil {
		t.Fatalf("%v\n%s", err, rules)
	}
	ours := generation()
	if ours == before || generation() != ours {
		t.Fatalf("generations %d, %d, %d", before, ours, generation())
	}
	nft, err := process.Look("nft", "nftables")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.onThreadIn(func() error {
		return process.Run(t.Context(), process.Cmd{Path: nft, Args: []string{"delete", "table", "inet", "bulwark"}})
	}); err != nil {
		t.Fatal(err)
	}
	if generation() == ours {
		t.Fatal("rules were taken away, and nothing is seen of it")
	}
}

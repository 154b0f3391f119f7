package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
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
	if !r.Ruled(t.Context()) {
		t.Fatal("rules that are in force are not seen")
	}
	begins(t, r)
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
	if generation() == ours || r.Ruled(t.Context()) {
		t.Fatal("rules were taken away, and nothing is seen of it")
	}
}

// begins has somebody in the router's namespace, whom dial's descriptor of it lets in, connect to instances: that comes to the port of a
// sandbox and to nothing else. Nobody is there, so what is let out is waited for in vain.
func begins(t *testing.T, r *Router) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.in(func(h *netlink.Handle, _ netns.NsHandle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "ibegins"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}); err != nil {
			return err
		}
		for _, name := range []string{"ibegins", "other"} {
			link, err := h.LinkByName(name)
			if err == nil {
				err = h.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
		}
		link, err := h.LinkByName("ibegins")
		if err != nil {
			return err
		}
		_, to, _ := net.ParseCIDR("198.18.0.0/24")
		return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK})
	}))
	for at, out := range map[string]bool{"198.18.0.9:8080": true, "198.18.0.9:22": false, "198.18.0.10:8080": false} {
		must(r.onThreadIn(func() error {
			_, err := net.DialTimeout("tcp", at, 300*time.Millisecond)
			if refused := errors.Is(err, unix.ECONNREFUSED); err == nil || refused == out {
				t.Errorf("to %s: %v", at, err)
			}
			return nil
		}))
	}
}

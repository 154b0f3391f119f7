package netpolicy

import (
	"net/netip"
	"slices"
	"testing"
)

func TestClassify(t *testing.T) {
	connected := []netip.Prefix{p("8.8.4.0/24"), p("2600:1::/64"), p("::ffff:1.2.3.0/120")}
	for text, want := range map[string]Class{
		"8.8.8.8": Open, "1.1.1.1": Open, "2606:4700::1111": Open, "2a00:1450::1": Open,
		"192.0.2.1": Open, "198.51.100.7": Open, "203.0.113.255": Open, "2001:db8::1": Open,
		"11.0.0.0": Open, "9.255.255.255": Open, "172.15.255.255": Open, "172.32.0.0": Open,
		"100.63.255.255": Open, "100.128.0.0": Open, "198.17.255.255": Open, "198.20.0.0": Open, "223.255.255.255": Open,
		"10.0.0.0": Private, "10.255.255.255": Private, "172.16.0.0": Private, "172.31.255.255": Private,
		"192.168.1.1": Private, "100.64.0.1": Private, "100.127.255.255": Private, "100.100.100.200": Private,
		"198.18.0.1": Private, "198.19.255.255": Private, "fd00::1": Private, "fc00::": Private, "fec0::1": Private,
		"0.0.0.0": Local, "0.1.2.3": Local, "127.0.0.1": Local, "127.255.0.1": Local, "169.254.169.254": Local,
		"192.0.0.192": Local, "192.88.99.1": Local, "224.0.0.1": Local, "239.255.255.255": Local, "240.0.0.1": Local,
		"255.255.255.255": Local, "::": Local, "::1": Local, "fe80::1": Local, "fe80::1%eth0": Local,
		"2606:4700::1111%eth0": Local, "ff02::1": Local, "100::1": Local, "5f00::1": Local, "4000::1": Local,
		"2001:10::1": Local, "2001:2f::1": Local, "::8.8.8.8": Local, "64:ff9b:1::808:808": Local,
		// Subnets of the host itself, in every dress.
		"8.8.4.1": Private, "::ffff:8.8.4.1": Private, "64:ff9b::808:401": Private, "2600:1::9": Private,
		"1.2.3.4": Private, "2002:808:401::1": Private,
		// IPv4 inside IPv6.
		"::ffff:8.8.8.8": Open, "::ffff:10.0.0.1": Private, "::ffff:127.0.0.1": Local, "::ffff:a9fe:a9fe": Local,
		"::ffff:0:8.8.8.8": Open, "::ffff:0:10.0.0.1": Private, "::ffff:0:7f00:1": Local,
		"64:ff9b::8.8.8.8": Open, "64:ff9b::10.1.2.3": Private, "64:ff9b::169.254.169.254": Local,
		"2002:808:808::1": Open, "2002:a00:1::1": Private, "2002:7f00:1::": Local, "2002:a9fe:a9fe::1": Local,
		// Teredo: the server's address, and the client's turned over (8.8.8.8 is f7f7:f7f7).
		"2001:0:808:808::f7f7:f7f7": Open, "2001:0:a00:1::f7f7:f7f7": Private,
		"2001:0:808:808::f5ff:fffe": Private, "2001:0:808:808::80ff:fffe": Local,
		// ISATAP.
		"2600::5efe:8.8.8.8": Open, "2600::5efe:10.0.0.1": Private, "2600::200:5efe:127.0.0.1": Local,
	} {
		addr := netip.MustParseAddr(text)
		if got := Classify(addr, connected); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
		if Closed(addr, connected) != (want != Open) {
			t.Errorf("Closed(%s) does not follow its class", text)
		}
	}
	if Classify(netip.Addr{}, nil) != Local {
		t.Error("no address at all is not Local")
	}
}

// filtered holds what a packet filter is given against what is decided by address: it refuses all that is not open, but for an address that
// hides in the end of a public one (ISATAP), and of what is open tunnels alone.
func filtered(t *testing.T, a netip.Addr) {
	t.Helper()
	a = a.Unmap()
	in := func(ps []netip.Prefix) bool {
		return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	b := a.As16()
	hidden := a.Is6() && b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
	tunnel := in([]netip.Prefix{p("2002::/16"), p("2001::/32")})
	if got, want := in(append(Closed4(), Closed6()...)), Classify(a, nil) != Open; got != want && !(got && tunnel) && !(!got && hidden) {
		t.Errorf("%s is %s, and a filter closes it: %t", a, Classify(a, nil), got)
	}
	if got, want := in(Inner()), Classify(a, nil) == Private; got && !want || want && !got && !tunnel && !hidden && !in(carriers()) {
		t.Errorf("%s is %s, and inner: %t", a, Classify(a, nil), got)
	}
}

// Whatever bytes stand for an address, a form that carries IPv4 is not more open than what it carries, and a connected
// subnet is never open.
func FuzzClassify(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, []byte{8, 8, 8, 8})
	f.Add([]byte{169, 254, 169, 254}, make([]byte, 16))
	for _, a := range []string{"::", "::1", "::5", "fe80::1", "fd00::1", "ff02::1", "2001:db8::1", "2606:4700::1", "64:ff9b::a00:1", "64:ff9b::808:808",
		"::ffff:0:a00:1", "::ffff:0:808:808", "4000::1", "fec0::1", "2001:2::1", "2002:a00:1::1", "64:ff9b:1::1", "1fff::1", "3fff::1"} {
		f.Add([]byte{10, 0, 0, 1}, netip.MustParseAddr(a).AsSlice())
	}
	f.Fuzz(func(t *testing.T, inner, outer []byte) {
		if a, ok := netip.AddrFromSlice(outer); ok {
			bits := a.BitLen() - 3
			if connected, err := a.Prefix(bits); err == nil && !Closed(a, []netip.Prefix{connected}) {
				t.Errorf("%s is open although the host's subnet is %s", a, connected)
			}
		}
		for _, b := range [][]byte{inner, outer} {
			if a, ok := netip.AddrFromSlice(b); ok {
				filtered(t, a)
			}
		}
		a, ok := netip.AddrFromSlice(inner)
		if !ok || !a.Is4() {
			return
		}
		v := a.As4()
		want := Classify(a, nil)
		forms := [][16]byte{
			{10: 0xff, 11: 0xff, 12: v[0], 13: v[1], 14: v[2], 15: v[3]},
			{8: 0xff, 9: 0xff, 12: v[0], 13: v[1], 14: v[2], 15: v[3]},
			{0, 0x64, 0xff, 0x9b, 12: v[0], 13: v[1], 14: v[2], 15: v[3]},
			{0x20, 0x02, v[0], v[1], v[2], v[3], 15: 1},
			{0x20, 0x01, 0, 0, 8, 8, 8, 8, 12: ^v[0], 13: ^v[1], 14: ^v[2], 15: ^v[3]},
			{0x20, 0x01, 0, 0, v[0], v[1], v[2], v[3], 12: 0xf7, 13: 0xf7, 14: 0xf7, 15: 0xf7},
		}
		for _, form := range forms {
			if got := Classify(netip.AddrFrom16(form), nil); got < want {
				t.Errorf("%s is %s, but carries %s, which is %s", netip.AddrFrom16(form), got, a, want)
			}
		}
	})
}

func TestOnLink(t *testing.T) {
	route := `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	0	00000000	0	0	0
eth1	0000000A	010200C0	0003	0	0	0	000000FF	0	0	0
eth1	000010AC	00000000	0201	0	0	0	0000F0FF	0	0	0
down	000011AC	00000000	0000	0	0	0	0000FFFF	0	0	0
short	000011AC
`
	route6 := `fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
20010db8000000000000000000000000 20 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
zz 40
`
	want := []netip.Prefix{p("192.0.2.0/24"), p("fd00::/64")}
	got := OnLink([]byte(route), []byte(route6))
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzOnLink(f *testing.F) {
	f.Add([]byte("eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"), []byte("fd00 40\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, prefix := range OnLink(a, b) {
			if !prefix.IsValid() || prefix.Bits() == 0 || prefix != prefix.Masked() {
				t.Errorf("%v is not a subnet", prefix)
			}
		}
	})
}

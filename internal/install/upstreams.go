package install

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// Upstreams says which proxies stand in front of the edge, as text, so that "not said" and "none" are two things.
type Upstreams struct {
	From   string `json:"from,omitempty"`   // networks with commas between them, Cloudflare among them by name; or NoUpstreams
	Header string `json:"header,omitempty"` // in which they say for whom they ask: one of ClientHeaders
	Proxy  Switch `json:"proxy,omitempty"`  // their connections begin with a PROXY header
	Only   Switch `json:"only,omitempty"`   // nobody else may connect
	// CA has everybody who connects show a certificate of these authorities; bulwark.ClientCAOff: nobody has to.
	CA bulwark.ClientCA `json:"ca,omitempty"`
}

// What there is for Upstreams.From beside networks.
const (
	NoUpstreams = "none"
	Cloudflare  = "cloudflare"
)

// ClientHeaders are the headers in which an upstream may say for whom it asks.
func ClientHeaders() []string { return []string{"X-Forwarded-For", "Forwarded", "Cf-Connecting-Ip"} }

// Switch is On or Off; empty is as it was, and Off at first.
type Switch string

// The two.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// ParseSwitch checks s.
func ParseSwitch(s string) (Switch, error) {
	if v := Switch(s); v == On || v == Off {
		return v, nil
	}
	return "", bulwark.Invalid(fmt.Sprintf("%q is neither \"on\" nor \"off\".", s), "")
}

// maxUpstreams bounds the networks of upstreams.
const maxUpstreams = 200

// cloudflareRanges are the networks from which Cloudflare connects to origins, as it publishes them (cloudflare.com/ips, as of 2026-11).
func cloudflareRanges() []string {
	return []string{"173.245.48.0/20", "103.21.244.0/22", "103.22.200.0/22", "103.31.4.0/22", "141.101.64.0/18", "108.162.192.0/18", "190.93.240.0/20",
		"188.114.96.0/20", "197.234.240.0/22", "198.41.128.0/17", "162.158.0.0/15", "104.16.0.0/13", "104.24.0.0/14", "172.64.0.0/13", "131.0.72.0/22",
		"2400:cb00::/32", "2606:4700::/32", "2803:f800::/32", "2405:b500::/32", "2405:8100::/32", "2a06:98c0::/29", "2c0f:f248::/32"}
}

// ParseUpstreams reads networks and addresses with commas between them.
func ParseUpstreams(s string) ([]netip.Prefix, error) {
	if s == "" || s == NoUpstreams {
		return nil, nil
	}
	var out []netip.Prefix
	for _, word := range strings.Split(s, ",") {
		words := []string{strings.TrimSpace(word)}
		if strings.EqualFold(words[0], Cloudflare) {
			words = cloudflareRanges()
		}
		for _, w := range words {
			p, err := netip.ParsePrefix(w)
			if a, aerr := netip.ParseAddr(w); aerr == nil && a.Zone() == "" {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			switch {
			case err != nil || p != p.Masked() || p.Addr().Is4In6():
				return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%q is no network.", w), "Give addresses or networks such as 192.0.2.0/24 with commas between them, \"cloudflare\", or \"none\".", err)
			case p.Bits() == 0:
				return nil, bulwark.Invalid("All of the internet cannot be believed.", "Give the networks of your own proxies.")
			}
			out = append(out, p)
		}
	}
	if len(out) > maxUpstreams {
		return nil, bulwark.Invalid(fmt.Sprintf("At most %d networks are taken.", maxUpstreams), "")
	}
	return out, nil
}

// usualHeader is where those that are named say for whom they ask. Cloudflare also connects for programs of its other customers, which choose their X-Forwarded-For.
func (u Upstreams) usualHeader() string {
	if strings.Contains(strings.ToLower(u.From), Cloudflare) {
		return "Cf-Connecting-Ip"
	}
	return ClientHeaders()[0]
}

// check refuses what cannot be meant.
func (u Upstreams) check() error {
	from, err := ParseUpstreams(u.From)
	if err != nil {
		return err
	}
	if u.Header != "" && !slices.Contains(ClientHeaders(), u.Header) {
		return bulwark.Invalid(fmt.Sprintf("For whom a proxy asks is not said in %q.", u.Header), "Choose one of "+strings.Join(ClientHeaders(), ", ")+".")
	}
	if u.CA != "" && u.CA != bulwark.ClientCAOff {
		if _, err := u.CA.Certificates(); err != nil {
			return err
		}
	}
	if len(from) == 0 && (u.Only == On || u.Proxy == On) {
		return bulwark.Invalid("Nobody could connect: there are no upstreams.", "Name them with --upstreams.")
	}
	return nil
}

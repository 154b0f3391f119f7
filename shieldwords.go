package bulwark

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// String writes the change for records.
func (c ShieldChange) String() string {
	var words []string
	if c.WAF != "" {
		words = append(words, "waf "+string(c.WAF))
	}
	if c.TLS != "" {
		words = append(words, "tls "+string(c.TLS))
	}
	if c.Challenge != "" {
		words = append(words, "challenge "+string(c.Challenge))
	}
	if c.Backend != "" {
		words = append(words, "backend "+string(c.Backend))
	}
	if c.ClientCA != "" {
		words = append(words, "client-ca "+c.ClientCA.String())
	}
	if c.HSTS != "" {
		words = append(words, "hsts "+string(c.HSTS))
	}
	for _, h := range c.Loosen {
		words = append(words, "loosen "+string(h))
	}
	for _, h := range c.Keep {
		words = append(words, "keep "+string(h))
	}
	if c.CSP != "" {
		words = append(words, "csp "+string(c.CSP))
	}
	if c.Trace != "" {
		words = append(words, "trace "+string(c.Trace))
	}
	if c.Schema != "" {
		words = append(words, "schema "+c.Schema.String())
	}
	if c.Maintenance != "" {
		words = append(words, "maintenance "+string(c.Maintenance))
	}
	for _, n := range slices.Sorted(maps.Keys(c.Pages)) {
		if c.Pages[n] == "" {
			words = append(words, "no page "+string(n))
		} else {
			words = append(words, "page "+string(n))
		}
	}
	for _, l := range c.Limit {
		words = append(words, "limit "+l.String())
	}
	for _, n := range c.Unlimit {
		words = append(words, "no limit "+n.String())
	}
	for _, list := range []struct {
		word string
		of   []netip.Prefix
	}{{"allow", c.Allow}, {"deny", c.Deny}, {"forget", c.Forget}} {
		for _, p := range list.of {
			words = append(words, list.word+" "+p.String())
		}
	}
	for _, n := range c.DenyAS {
		words = append(words, "deny "+n.String())
	}
	for _, n := range c.ForgetAS {
		words = append(words, "forget "+n.String())
	}
	for _, e := range c.Exclude {
		words = append(words, "exclude "+e.String())
	}
	for _, e := range c.Include {
		words = append(words, "include "+e.String())
	}
	return strings.Join(words, ", ")
}

// String writes the limit for people.
func (l RateLimit) String() string { return l.Rate.String() + " " + LimitName{l.Per, l.Path}.String() }

// String writes the name for people.
func (n LimitName) String() string {
	s := "per " + string(n.Per)
	if n.Path != "" {
		s += " at " + n.Path
	}
	return s
}

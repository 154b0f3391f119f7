package main

import "testing"

func TestRecordFor(t *testing.T) {
	for address, want := range map[string]string{
		"https://shop.apps.example.org":       "Set the DNS record of www.example.net: CNAME shop.apps.example.org., or the same A and AAAA records as that has.",
		"https://shop.bulwark.localhost:8443": "Set the DNS record of www.example.net to this server's addresses (A, AAAA).",
		"":                                    "Set the DNS record of www.example.net to this server's addresses (A, AAAA).",
	} {
		if got := recordFor("www.example.net", address); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}

package main

import (
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// What the operator said of upstreams reaches the edge.
func TestUpstreams(t *testing.T) {
	of := func(u install.Upstreams) (from int, ca bulwark.ClientCA, only bool) {
		t.Helper()
		got, err := upstreams(&install.Installation{Upstreams: u})
		if err != nil {
			t.Fatal(err)
		}
		return len(got.From), got.CA, got.Only
	}
	if from, ca, only := of(install.Upstreams{From: "192.0.2.0/24,198.51.100.7", CA: "-----BEGIN", Only: install.On}); from != 2 || ca != "-----BEGIN" || !only {
		t.Error(from, ca, only)
	}
	if from, ca, only := of(install.Upstreams{From: install.NoUpstreams, CA: bulwark.ClientCAOff, Only: install.Off}); from != 0 || ca != "" || only {
		t.Error(from, ca, only)
	}
}

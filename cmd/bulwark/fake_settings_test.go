package main

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// settings are the calls about what apps and builds may reach, and about keys; the answers are the ledger's own.
func (f *fake) settings(mux *http.ServeMux) {
	at := time.Now().Add(-3 * time.Minute)
	mux.HandleFunc("POST /v1/registries", f.mine(func(r *http.Request, _ *fakeApp) (any, error) { _, err := f.submit(r); return struct{}{}, err }))
	mux.HandleFunc("GET /v1/registries", f.mine(func(r *http.Request, _ *fakeApp) (any, error) {
		out := []client.Registry{}
		all, err := f.ledger.Registries(r.Context())
		for _, g := range all {
			row := client.Registry{Host: g.To.HostPort(), Packages: g.Packages, Person: "p_00000000000000000000000008", Created: at}
			if g.CA != "" {
				row.CA = bulwark.Sum([]byte(g.CA))
			}
			out = append(out, row)
		}
		return out, err
	}))
	mux.HandleFunc("GET /v1/keys", f.mine(func(r *http.Request, _ *fakeApp) (any, error) {
		out := []client.Key{}
		all, err := f.ledger.Keys(r.Context())
		for _, k := range all {
			out = append(out, client.Key(k))
		}
		return append(out, client.Key{Kind: "ssh", Fingerprint: "SHA256:" + strings.Repeat("x", 43), Person: "p_0000000000000000000000000g"}), err
	}))
	mux.HandleFunc("GET /v1/apps/{app}/egress", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		out := []client.EgressRule{}
		all, err := f.ledger.Egress(r.Context(), a.ID)
		for _, rule := range all {
			out = append(out, client.EgressRule{Rule: rule.Rule, Created: at})
		}
		return out, err
	}))
	mux.HandleFunc("GET /v1/apps/{app}/build-secrets", f.mine(func(_ *http.Request, a *fakeApp) (any, error) {
		out := []client.BuildSecret{}
		for n := range a.secrets {
			out = append(out, client.BuildSecret{Name: n, Set: at})
		}
		slices.SortFunc(out, func(a, b client.BuildSecret) int { return strings.Compare(string(a.Name), string(b.Name)) })
		return out, nil
	}))
}

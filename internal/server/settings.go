package server

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/registry"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// applySetting writes what a statement about an app's settings changes in the store, and returns a line for the record.
func applySetting(tx *sql.Tx, a *app.App, r *nodeapi.Receipt) (string, error) {
	var domain statement.Domain
	var rule statement.Egress
	var secrets statement.ConfigSet
	var shield statement.Shield
	var brought statement.CertAdd
	var body any = &domain
	switch r.Kind {
	case statement.KindEgressAllow, statement.KindEgressDeny:
		body = &rule
	case statement.KindBuildSecret:
		body = &secrets
	case statement.KindShieldSet:
		body = &shield
	case statement.KindCertAdd:
		body = &brought
	}
	if err := json.Unmarshal(r.Body, body); err != nil {
		return "", err
	}
	switch r.Kind {
	case statement.KindDomainAdd:
		return string(domain.Host), app.AddDomain(tx, a, domain.Host)
	case statement.KindDomainRemove:
		return string(domain.Host), app.RemoveDomain(tx, a, domain.Host)
	case statement.KindEgressAllow:
		return rule.Rule, app.AllowEgress(tx, a, rule.Rule)
	case statement.KindEgressDeny:
		return rule.Rule, app.DenyEgress(tx, a, rule.Rule)
	case statement.KindCertAdd:
		return certNames(brought), nil // the node keeps it
	case statement.KindCertRemove:
		return string(domain.Host), nil
	case statement.KindShieldSet:
		return shield.Change.String(), nil // the node keeps it, and is asked
	case statement.KindBuildSecret:
		set := slices.Sorted(maps.Keys(secrets.Set))
		var words []string
		for _, n := range set {
			words = append(words, "set "+string(n))
		}
		for _, n := range secrets.Unset {
			words = append(words, "unset "+string(n))
		}
		return strings.Join(words, ", "), app.SetBuildSecrets(tx, a, set, secrets.Unset)
	}
	return "", nil
}

func (s *Server) listBuildSecrets(ctx context.Context, actor access.Actor, in *AppPath) ([]client.BuildSecret, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	return app.BuildSecrets(ctx, s.db.Reader(), a.ID)
}

func (s *Server) listEgress(ctx context.Context, actor access.Actor, in *AppPath) ([]client.EgressRule, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	return app.Egress(ctx, s.db.Reader(), a.ID)
}

// listKeys lists the caller's own keys; those who run the installation see everybody's, for a stolen one must not depend on its
// victim.
func (s *Server) listKeys(ctx context.Context, actor access.Actor, _ *platformIn) ([]client.Key, error) {
	var all []nodeapi.Key
	if err := s.node.Call(ctx, "keys", struct{}{}, &all); err != nil {
		return nil, err
	}
	out := []client.Key{}
	everybody := s.policy.Ask(actor, access.ManageRegistries, access.Platform()).Allowed
	for _, k := range all {
		if k.Person != actor.Person && !everybody {
			continue
		}
		out = append(out, client.Key(k))
	}
	return out, nil
}

func (s *Server) listRegistries(ctx context.Context, _ access.Actor, _ *platformIn) ([]client.Registry, error) {
	return registry.All(ctx, s.db.Reader())
}

// setRegistry takes a statement about what all builds may reach.
func (s *Server) setRegistry(ctx context.Context, _ access.Actor, in *signedIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", applyRegistry, statement.KindRegistryAllow, statement.KindRegistryRemove)
	return struct{}{}, err
}

// applyRegistry writes the row and the record of a statement that the node took.
func applyRegistry(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	var body statement.Registry // the body of the other kind is a part of it
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return err
	}
	var err error
	if r.Kind == statement.KindRegistryAllow {
		err = registry.Allow(tx, bulwark.FirstProject, r.Person, body)
	} else {
		err = registry.Remove(tx, body.Host)
	}
	if err != nil {
		return err
	}
	return told(ctx, tx, r, bulwark.FirstProject, access.Platform(), audit.Done, body.Host)
}

// certNames says for what a certificate is that the node took.
func certNames(b statement.CertAdd) string {
	block, _ := pem.Decode(b.Chain)
	if block == nil {
		return ""
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	names := c.DNSNames[:min(10, len(c.DNSNames))]
	return fmt.Sprintf("%s, until %s", strings.Join(names, ", "), c.NotAfter.UTC().Format(time.DateOnly))
}

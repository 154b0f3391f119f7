package main

import (
	"crypto/ed25519"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// An SBOM is believed for the node's signature alone: the server, which passes it on, can put no other in its place.
func TestVerifySBOM(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	node := statement.NewKey(key.Public().(ed25519.PublicKey))
	document, image := []byte("{\"spdxVersion\":\"SPDX-2.3\"}\n"), bulwark.Sum([]byte("image"))
	sealed := func(by ed25519.PrivateKey, change func(*statement.Provenance)) []byte {
		p := statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType,
			Subject: []statement.Subject{{Name: "shop", Digest: map[string]string{"sha256": image.Hex()}}}}
		p.Predicate.BuildDefinition.ExternalParameters = statement.ExternalParameters{Node: node.Fingerprint, App: bulwark.NewAppID(), Name: "shop",
			Cause: statement.Cause{Kind: statement.KindPush, Person: bulwark.NewPersonID(), Digest: bulwark.Sum(nil)}}
		p.Predicate.RunDetails.Byproducts = []statement.Resource{{Name: "sbom.spdx.json", MediaType: "application/spdx+json",
			Digest: map[string]string{"sha256": bulwark.Sum(document).Hex()}}}
		change(&p)
		env, err := statement.Seal(statement.ProvenancePayloadType, p, by)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	same := func(*statement.Provenance) {}
	for name, c := range map[string]struct {
		document, provenance []byte
		format               string
		ok                   bool
	}{
		"as the node made it":      {document, sealed(key, same), "spdx", true},
		"another document":         {[]byte("{}\n"), sealed(key, same), "spdx", false},
		"one byte more":            {append([]byte("\n"), document...), sealed(key, same), "spdx", false},
		"no document":              {nil, sealed(key, same), "spdx", false},
		"in another format":        {document, sealed(key, same), "cyclonedx", false},
		"signed by another":        {document, sealed(other, same), "spdx", false},
		"not signed":               {document, nil, "spdx", false},
		"of another app":           {document, sealed(key, func(p *statement.Provenance) { p.Predicate.BuildDefinition.ExternalParameters.Name = "evil" }), "spdx", false},
		"of another installation":  {document, sealed(key, func(p *statement.Provenance) { p.Predicate.BuildDefinition.ExternalParameters.Node = "SHA256:x" }), "spdx", false},
		"of no image":              {document, sealed(key, func(p *statement.Provenance) { p.Subject = nil }), "spdx", false},
		"of a build without any":   {document, sealed(key, func(p *statement.Provenance) { p.Predicate.RunDetails.Byproducts = nil }), "spdx", false},
		"by a digest that is none": {nil, sealed(key, func(p *statement.Provenance) { p.Predicate.RunDetails.Byproducts[0].Digest["sha256"] = "" }), "spdx", false},
		"what is no JSON, signed": {[]byte("x"), sealed(key, func(p *statement.Provenance) {
			p.Predicate.RunDetails.Byproducts[0].Digest["sha256"] = bulwark.Sum([]byte("x")).Hex()
		}), "spdx", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := verifySBOM(client.SBOM{Document: c.document, Provenance: c.provenance}, c.format, "shop", node)
			if (err == nil) != c.ok || c.ok && got != image {
				t.Fatal(got, err)
			}
		})
	}
}

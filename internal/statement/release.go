package statement

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// The payload types of what the node signs. There is no verb to have the node sign anything: each follows from a
// person's statement and from what the node measured.
const (
	ReleasePayloadType    = "application/vnd.bulwark.release.v1+json"
	ProvenancePayloadType = "application/vnd.in-toto+json"
	InfoPayloadType       = "application/vnd.bulwark.info.v1+json"
	RunningPayloadType    = "application/vnd.bulwark.running.v1+json"
)

// Release is the release statement: all that an instance is made of. A start takes nothing else, so no part of it can be
// swapped for another.
type Release struct {
	Version    int               `json:"v"`
	Node       string            `json:"node"`
	Project    bulwark.ProjectID `json:"project"`
	App        bulwark.AppID     `json:"app"`
	Name       bulwark.AppName   `json:"name"`
	Generation uint64            `json:"generation"` // the release's number; only grows
	Image      bulwark.Digest    `json:"image"`      // of the OCI manifest
	Provenance bulwark.Digest    `json:"provenance"` // of the provenance envelope that admitted the image
	Config     ConfigRef         `json:"config"`
	Plan       bulwark.Plan      `json:"plan"`
	// Sizes holds the process types whose limits are not the default's.
	Sizes map[bulwark.ProcessType]bulwark.Size `json:"sizes,omitempty"`
	// Cause is what a person signed to bring the release about.
	Cause Cause     `json:"cause"`
	Time  time.Time `json:"time"`
}

// ConfigRef names a config revision. Digest is keyed with a secret of the project, so it says nothing about the values.
type ConfigRef struct {
	Revision uint64         `json:"revision"`
	Digest   bulwark.Digest `json:"digest,omitempty"` // empty for revision 0
}

// Cause names the signed word of a person: a push certificate or a statement.
type Cause struct {
	Kind   Kind             `json:"kind"` // KindPush for a push certificate
	Person bulwark.PersonID `json:"person"`
	Key    string           `json:"key"`    // fingerprint
	Digest bulwark.Digest   `json:"digest"` // of the certificate or envelope
}

// KindPush is the Cause of a git push; its document is a push certificate, not a statement.
const KindPush Kind = "push"

// Provenance is an in-toto statement with an SLSA provenance predicate (in-toto Attestation v1; SLSA 1.1 provenance),
// written by the node from what it saw: the source tree that it measured and the image that it hashed.
type Provenance struct {
	Type          string         `json:"_type"` // InTotoType
	Subject       []Subject      `json:"subject"`
	PredicateType string         `json:"predicateType"` // SLSAType
	Predicate     SLSAProvenance `json:"predicate"`
}

// The type names of in-toto and SLSA.
const (
	InTotoType = "https://in-toto.io/Statement/v1"
	SLSAType   = "https://slsa.dev/provenance/v1"
	BuildType  = "https://bulwark.dev/build/v1"
	ImportType = "https://bulwark.dev/import/v1"
)

// Subject is an artifact by name and digest.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// SLSAProvenance is the predicate of SLSAType.
type SLSAProvenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says from what was built.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"` // BuildType, or ImportType for an image that was brought along
	ExternalParameters   ExternalParameters `json:"externalParameters"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies,omitempty"`
}

// ExternalParameters are what a person chose.
type ExternalParameters struct {
	Node  string          `json:"node"`
	App   bulwark.AppID   `json:"app"`
	Name  bulwark.AppName `json:"name"`
	Cause Cause           `json:"cause"`
	Plan  bulwark.Plan    `json:"plan"` // read back from the builder, so as trustworthy as the app's own code
}

// Resource is something that went into a build.
type Resource struct {
	URI       string            `json:"uri,omitempty"`
	Name      string            `json:"name,omitempty"`
	Digest    map[string]string `json:"digest"`
	MediaType string            `json:"mediaType,omitempty"`
}

// RunDetails say who built, and when, and what was written about the result.
type RunDetails struct {
	Builder    Builder    `json:"builder"`
	Metadata   Metadata   `json:"metadata"`
	Byproducts []Resource `json:"byproducts,omitempty"` // the SBOMs, by the media types of their formats
}

// Byproduct returns the digest of the document of a media type that was written about the result, "" if there is none.
func (p *Provenance) Byproduct(mediaType string) bulwark.Digest {
	for _, r := range p.Predicate.RunDetails.Byproducts {
		if r.MediaType == mediaType {
			d, err := bulwark.ParseDigest("sha256:" + r.Digest["sha256"])
			if err != nil {
				return ""
			}
			return d
		}
	}
	return ""
}

// Builder names the builder.
type Builder struct {
	ID string `json:"id"`
}

// Metadata tells one run from another.
type Metadata struct {
	InvocationID string    `json:"invocationId"`
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn"`
}

// Info is what the node says about itself, signed, so that nobody between can put another key in place of its own.
type Info struct {
	Version  int              `json:"v"`
	Node     string           `json:"node"`
	Key      []byte           `json:"key"` // PKIX
	CA       []byte           `json:"ca"`  // PEM: the authorities of the installation's own certificates
	Domain   bulwark.HostName `json:"domain"`
	Projects []ProjectKey     `json:"projects"`
	SSH      []string         `json:"ssh"` // host keys of the git server, authorized_keys form
	Ports    InfoPorts        `json:"ports"`
	Log      string           `json:"log,omitempty"`     // verifies the checkpoints of the audit log, in the form of package note
	Posture  []byte           `json:"posture,omitempty"` // PKIX: verifies the records of the probes
	// Challenge is what who asked chose, so that they know that the answer is none of before.
	Challenge string    `json:"challenge,omitempty"`
	Time      time.Time `json:"time"`
}

// InfoPorts are where the installation is reached from outside.
type InfoPorts struct {
	HTTP  uint16 `json:"http"`
	HTTPS uint16 `json:"https"`
	API   uint16 `json:"api"`
	SSH   uint16 `json:"ssh"`
}

// ProjectKey is the public key that a project's config is sealed to.
type ProjectKey struct {
	Project bulwark.ProjectID `json:"project"`
	Version uint64            `json:"version"`
	Since   time.Time         `json:"since"`
	Public  []byte            `json:"public"` // HPKE
}

// Running is the node's word on what runs of an app right now, read back from the engine.
type Running struct {
	Node      string            `json:"node"`
	App       bulwark.AppID     `json:"app"`
	Challenge string            `json:"challenge"` // chosen by who asked, so that an old answer is worth nothing
	Instances []RunningInstance `json:"instances"`
	// Approved is there for an app that is protected, or was when its release was promoted.
	Approved *Approved `json:"approved,omitempty"`
	Time     time.Time `json:"time"`
}

// RunningInstance is one instance as it runs.
type RunningInstance struct {
	Instance   bulwark.InstanceID  `json:"instance"`
	Process    bulwark.ProcessType `json:"process"`
	Generation uint64              `json:"generation"`
	Release    bulwark.Digest      `json:"release"` // of the release statement's envelope
	Image      bulwark.Digest      `json:"image"`
	// Once tells what runs once, a command or a cron job: it may be of the release that was promoted when it began.
	Once bool `json:"once,omitempty"`
}

// Bundle carries a release statement with everything that it refers to, so that it can be verified anywhere.
type Bundle struct {
	Release    []byte `json:"release"`    // envelope of a Release, signed by the node
	Provenance []byte `json:"provenance"` // envelope of a Provenance, signed by the node
	Cause      []byte `json:"cause"`      // push certificate or statement envelope, signed by a person
	// Origin is the cause that the image was built for, when the release is a rollback or a config change of a later day.
	Origin []byte `json:"origin,omitempty"`
}

// OpenRelease verifies the whole of a bundle against the node's key: the release's signature, that it names exactly this
// provenance and this cause, that the provenance admitted this image for this app, and that what a person signed is
// what it says. Whether that person may, and whether the release is the newest, is not in a bundle: the ledger knows.
func OpenRelease(b Bundle, node Key) (*Release, *Provenance, error) {
	var r Release
	if err := Open(b.Release, ReleasePayloadType, node, &r); err != nil {
		return nil, nil, err
	}
	var p Provenance
	if err := Open(b.Provenance, ProvenancePayloadType, node, &p); err != nil {
		return nil, nil, err
	}
	ext := p.Predicate.BuildDefinition.ExternalParameters
	origin := b.Origin
	if origin == nil {
		origin = b.Cause
	}
	for _, c := range []struct {
		ok  bool
		why string
	}{
		{r.Version == 1, "its version is not 1"},
		{bulwark.Sum(b.Provenance) == r.Provenance, "it names another provenance"},
		{bulwark.Sum(b.Cause) == r.Cause.Digest, "it names another cause"},
		{bulwark.Sum(origin) == ext.Cause.Digest, "the provenance names another cause"},
		{len(p.Subject) == 1 && p.Subject[0].Digest["sha256"] == r.Image.Hex(), "the provenance is of another image"},
		{ext.App == r.App && ext.Node == r.Node, "the provenance is of another app"},
	} {
		if !c.ok {
			return nil, nil, bulwark.Fail(bulwark.KindForbidden, "The release statement does not hold: "+c.why+".",
				"Deploy the app again.", nil)
		}
	}
	return &r, &p, nil
}

// SealRelease signs r. Only the node's release code calls it.
func SealRelease(r *Release, key ed25519.PrivateKey) ([]byte, error) {
	if r.Generation == 0 || r.Image == "" || r.Cause.Digest == "" {
		return nil, fmt.Errorf("statement: a release needs a generation, an image and a cause")
	}
	return Seal(ReleasePayloadType, r, key)
}

// Package statement is what people sign and what the node signs: the form of a statement, its encoding, its signatures.
// The written specification is docs/statements.md.
//
// It promises that a statement which was returned by Verify was signed, byte for byte, by the key that it names, and that
// its form is valid; it says nothing about whether that key may: the node's ledger does. Signatures are Ed25519 in DSSE
// envelopes (secure-systems-lab/dsse, protocol.md), so that a signature over one kind of document cannot be taken for one
// over another: the payload's type is signed with it.
//
// Whoever owns a device key can say what that key's person can say, until a statement of an owner removes the key.
package statement

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// PayloadType is the type of a person's statement in its DSSE envelope.
const PayloadType = "application/vnd.bulwark.statement.v1+json"

// OwnPayloadType is the type of a statement that the node made by itself and signed with its own key. Nobody can submit one.
const OwnPayloadType = "application/vnd.bulwark.own-statement.v1+json"

// MaxSize bounds an envelope in bytes: a config statement may carry some hundred sealed values.
const MaxSize = 8 << 20

// Kind says what a statement asks for.
type Kind string

// The kinds of statement and the type of each body.
const (
	KindEnroll         Kind = "person.enroll"         // Enroll
	KindKeyAdd         Kind = "key.add"               // KeyAdd
	KindKeyRemove      Kind = "key.remove"            // KeyRemove
	KindAppCreate      Kind = "app.create"            // AppCreate
	KindAppDestroy     Kind = "app.destroy"           // AppDestroy
	KindAppRestore     Kind = "app.restore"           // AppRestore
	KindDeploy         Kind = "app.deploy"            // Deploy
	KindRollback       Kind = "app.rollback"          // Rollback
	KindConfigSet      Kind = "config.set"            // ConfigSet
	KindConfigReveal   Kind = "config.reveal"         // ConfigReveal
	KindBuildSecret    Kind = "build-secret.set"      // ConfigSet
	KindRun            Kind = "app.run"               // Run
	KindResize         Kind = "app.resize"            // Resize
	KindDomainAdd      Kind = "domain.add"            // Domain
	KindDomainRemove   Kind = "domain.remove"         // Domain
	KindCertAdd        Kind = "cert.add"              // CertAdd
	KindCertRemove     Kind = "cert.remove"           // CertRemove
	KindEgressAllow    Kind = "egress.allow"          // Egress
	KindEgressDeny     Kind = "egress.deny"           // Egress
	KindShieldSet      Kind = "shield.set"            // Shield
	KindRegistryAllow  Kind = "build-registry.allow"  // Registry
	KindRegistryRemove Kind = "build-registry.remove" // RegistryRemove
	KindPatchAdd       Kind = "patch.add"             // bulwark.Patch
	KindPatchRemove    Kind = "patch.remove"          // PatchRemove
	KindProtect        Kind = "app.protect"           // Protect
	KindProtectApprove Kind = "protect.approve"       // ProtectApprove
	KindApprove        Kind = "release.approve"       // Approve
	KindOrgCreate      Kind = "org.create"            // OrgCreate
	KindProjectCreate  Kind = "project.create"        // ProjectCreate
	KindProjectRotate  Kind = "project.rotate"        // ProjectRotate
	KindMemberInvite   Kind = "member.invite"         // MemberInvite
	KindMemberUninvite Kind = "member.uninvite"       // MemberUninvite
	KindMemberSet      Kind = "member.set"            // MemberSet
	KindMemberRemove   Kind = "member.remove"         // MemberRemove
	KindTokenCreate    Kind = "token.create"          // TokenCreate
	KindTokenRevoke    Kind = "token.revoke"          // TokenRevoke
)

// Kinds returns all of them.
func Kinds() []Kind {
	return []Kind{
		KindPush, KindEnroll, KindKeyAdd, KindKeyRemove, KindAppCreate, KindAppDestroy, KindAppRestore, KindDeploy, KindRollback, KindConfigSet,
		KindConfigReveal, KindBuildSecret, KindRun, KindResize, KindDomainAdd, KindDomainRemove, KindCertAdd, KindCertRemove, KindEgressAllow, KindEgressDeny, KindShieldSet,
		KindRegistryAllow, KindRegistryRemove, KindPatchAdd, KindPatchRemove, KindProtect, KindProtectApprove, KindApprove, KindOrgCreate, KindProjectCreate, KindProjectRotate,
		KindMemberInvite, KindMemberUninvite, KindMemberSet, KindMemberRemove, KindTokenCreate, KindTokenRevoke,
	}
}

// Statement is the payload that is signed. Node names the installation it is meant for, so that it is worth nothing
// elsewhere; ID makes it good for one time; App is empty for those that are not about an app.
type Statement struct {
	Version int                 `json:"v"`
	ID      bulwark.StatementID `json:"id"`
	Node    string              `json:"node"`
	Time    time.Time           `json:"time"`
	Kind    Kind                `json:"kind"`
	App     bulwark.AppID       `json:"app,omitempty"`
	Body    json.RawMessage     `json:"body"`
}

// Enroll makes the first person, or, later, takes an invitation. The proof shows that the signer knows the one-time
// token without showing the token to the server that passes it on: HMAC-SHA256 keyed with the token's secret over the
// device key in PKIX form.
type Enroll struct {
	Name   string   `json:"name"`          // for people; kept apart from the pseudonym
	Device []byte   `json:"device"`        // PKIX, Ed25519: the key that signed the envelope
	SSH    []SSHKey `json:"ssh,omitempty"` // to register along with it
	Proof  []byte   `json:"proof"`
	// Invitation is the fingerprint of the invitation that is taken up; the proof is then a signature by its key, see package
	// enrol. Empty for the operator's one-time token.
	Invitation string `json:"invitation,omitempty"`
}

// KeyAdd registers one more key for the signer: either an SSH key, or a device key and its signature over KeyProof.
type KeyAdd struct {
	SSH    *SSHKey `json:"ssh,omitempty"`
	Device []byte  `json:"device,omitempty"` // PKIX, Ed25519
	Proof  []byte  `json:"proof,omitempty"`  // of Device
}

// KeyRemove takes a key away for ever. Every owner may remove any: a stolen key must not depend on its victim.
type KeyRemove struct {
	Fingerprint string `json:"fingerprint"` // "SHA256:…" as ssh-keygen prints it
}

// AppCreate makes an app. The name becomes free again only when the app was destroyed and its grace is over.
type AppCreate struct {
	Name    bulwark.AppName   `json:"name"`
	Project bulwark.ProjectID `json:"project,omitempty"` // empty means the default project
}

// AppDestroy ends an app. Until the node's grace is over it can be brought back; with Now there is no grace, or no more of it.
// Name is repeated so that a person has read it.
type AppDestroy struct {
	Name bulwark.AppName `json:"name"`
	Now  bool            `json:"now,omitempty"`
}

// AppRestore brings a destroyed app back as it was.
type AppRestore struct {
	Name bulwark.AppName `json:"name"`
}

// Deploy gives a source tree or an image to build a release from: exactly one of Tree and Image is set.
type Deploy struct {
	Tree    TreeDigest     `json:"tree,omitempty"`
	Image   bulwark.Digest `json:"image,omitempty"` // of the OCI archive's bytes
	Message string         `json:"message,omitempty"`
}

// Rollback makes a new release of an old one's image and process types, and of its config too if Config is set.
type Rollback struct {
	To     uint64 `json:"to"`
	Config bool   `json:"config,omitempty"`
}

// ConfigSet makes config revision Base+1. Set holds HPKE ciphertexts, see package seal, that were sealed to the version Key of
// the project's key.
type ConfigSet struct {
	Base  uint64                        `json:"base"`
	Key   uint64                        `json:"key,omitempty"` // 0 means 1
	Set   map[bulwark.ConfigName][]byte `json:"set,omitempty"`
	Unset []bulwark.ConfigName          `json:"unset,omitempty"`
}

// ConfigReveal asks for the plaintext of a variable, sealed to a key that the signer made for this one time.
type ConfigReveal struct {
	Name      bulwark.ConfigName `json:"name"`
	Recipient []byte             `json:"recipient"` // HPKE public key
}

// CertAdd brings a certificate for host names of an app. Its private key is the one value of Key, by the name that certchain.Name gives the
// certificate, sealed for the use "certificate"; Base is 0.
type CertAdd struct {
	Chain []byte    `json:"chain"` // PEM, the certificate for the host names first
	Key   ConfigSet `json:"key"`
}

// CertRemove takes away what was brought for a host name of an app.
type CertRemove struct {
	Host bulwark.HostName `json:"host"`
}

// Run starts a one-off instance of the current release. Argv is executed as it stands.
type Run struct {
	Argv     []string     `json:"argv"`
	Size     bulwark.Size `json:"size,omitempty"` // empty means the default
	Terminal bool         `json:"terminal,omitempty"`
	// Recipient is the person's end of the encrypted stream (an HPKE public key, see package terminal); it is set exactly if
	// Detach is not.
	Recipient []byte `json:"recipient,omitempty"`
	// Detach leaves the command to itself: its output goes into the app's log.
	Detach bool `json:"detach,omitempty"`
}

// Resize chooses the limits of process types.
type Resize struct {
	Sizes map[bulwark.ProcessType]bulwark.Size `json:"sizes"`
}

// Domain claims or gives up a host name.
type Domain struct {
	Host bulwark.HostName `json:"host"`
}

// Egress opens or closes a destination for an app: "host:port", "address/bits:port".
type Egress struct {
	Rule string `json:"rule"`
}

// Shield changes what protects an app at the edge.
type Shield struct {
	Change bulwark.ShieldChange `json:"change"`
}

// PatchRemove takes a virtual patch away before its end.
type PatchRemove struct {
	Name bulwark.PatchName `json:"name"`
}

// Registry lets all builders reach one more host: "host" or "host:port". A Dockerfile's FROM may name it as a registry of
// images, unless it is for packages and other downloads alone; only then it may be "*.host". The same host again takes the
// place of what was said before.
type Registry struct {
	Host     string `json:"host"`
	Packages bool   `json:"packages,omitempty"`
	// CA is PEM: authorities that are believed for this registry of images beside the usual ones, and for no other host.
	CA string `json:"ca,omitempty"`
}

// RegistryRemove takes a host back.
type RegistryRemove struct {
	Host string `json:"host"`
}

// New makes a statement of a kind with a fresh id.
func New(node string, kind Kind, app bulwark.AppID, body any, now time.Time) (*Statement, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &Statement{Version: 1, ID: bulwark.NewStatementID(), Node: node, Time: now.UTC().Truncate(time.Second),
		Kind: kind, App: app, Body: b}, nil
}

// Decode reads the body of s into dst, strictly: an unknown field is an error, so that nobody signs what the node would
// not understand.
func (s *Statement) Decode(dst any) error { return Strict(s.Body, dst) }

// Strict reads one JSON value without unknown fields and without anything behind it.
func Strict(b []byte, dst any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(dst); err != nil {
		return malformed(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return malformed(fmt.Errorf("data after the value"))
	}
	return nil
}

func malformed(err error) error {
	return bulwark.Fail(bulwark.KindInvalid, "The statement is not well formed.",
		"Use a bulwark command of the same version as the server.", err)
}

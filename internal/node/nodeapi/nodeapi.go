// Package nodeapi is how the server speaks to the node: the typed verbs and a client for them, HTTP and JSON over a unix
// socket that only the server's user can connect to.
//
// It promises that no verb carries a command line, a host path or a container spec: what a verb means is decided by the
// node from what people signed. Whoever owns the server can call every verb, and gets from each no more than
// docs/security.md says.
package nodeapi

import (
	"net/netip"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Receipt is the node's answer to an accepted document.
type Receipt struct {
	Digest  bulwark.Digest       `json:"digest"`
	Kind    statement.Kind       `json:"kind"`
	Person  bulwark.PersonID     `json:"person,omitempty"` // empty for what the node did by itself
	Token   bulwark.TokenID      `json:"token,omitempty"`
	Key     string               `json:"key"`
	App     bulwark.AppID        `json:"app,omitempty"`
	Seq     uint64               `json:"seq"`
	Config  *statement.ConfigRef `json:"config,omitempty"`
	Rotated uint64               `json:"rotated,omitempty"` // the version of a project's key that was made
	// Protection is what holds after a statement about an app's protection.
	Protection *statement.Protection `json:"protection,omitempty"`
	// Until is when a destroyed app's grace ends; nil if it was final at once. Promoted is the release that serves of an app
	// that was brought back.
	Until    *time.Time `json:"until,omitempty"`
	Promoted uint64     `json:"promoted,omitempty"`
	// From is the app that a host name was taken from, since the DNS says whose it is.
	From bulwark.AppID `json:"from,omitempty"`
	Body []byte        `json:"body,omitempty"` // JSON, verified
	// Chain is the document's place in the node's chain.
	Chain *statement.ChainRef `json:"chain,omitempty"`
}

// Whose has the DNS asked whose a host name is, before an app's claim of it is submitted.
type Whose struct {
	App  bulwark.AppID    `json:"app"`
	Host bulwark.HostName `json:"host"`
}

// Accepted asks what became of a document: the receipt if it was accepted, or not found.
type Accepted struct {
	Digest bulwark.Digest `json:"digest"`
}

// Graces asks how apps stand that were destroyed; one that was not is left out of the answer.
type Graces struct {
	Apps []bulwark.AppID `json:"apps"`
}

// Grace is how one stands: it is final, or can be brought back until a time.
type Grace struct {
	App   bulwark.AppID `json:"app"`
	Final bool          `json:"final,omitempty"`
	Until time.Time     `json:"until,omitzero"`
}

// Document carries something signed.
type Document struct {
	Envelope []byte `json:"envelope"`
}

// AskInfo asks for the node's word about itself; the answer repeats the challenge, which may be empty.
type AskInfo struct {
	Challenge string `json:"challenge,omitempty"`
}

// Info is the node's signed word about itself.
type Info struct {
	Envelope []byte `json:"envelope"`
	// Fresh tells that nobody has signed in yet.
	Fresh bool `json:"fresh"`
}

// LoginToken asks for a one-time login token, as root: for an owner of the installation, or for the prober.
type LoginToken struct {
	Prober bool `json:"prober,omitempty"`
}

// Push carries a push certificate for an app.
type Push struct {
	App         bulwark.AppID `json:"app"`
	Certificate []byte        `json:"certificate"`
}

// HostName names a host.
type HostName struct {
	Host bulwark.HostName `json:"host"`
}

// Nonce is the seed of git's certificate nonce for one push.
type Nonce struct {
	Seed string `json:"seed"`
}

// KeyOwner asks whose key it is: kind is "ssh" or "device". With "person", the fingerprint is a person's id.
type KeyOwner struct {
	Kind        string `json:"kind"`
	Fingerprint string `json:"fingerprint"`
	// The answer.
	Person bulwark.PersonID  `json:"person,omitempty"`
	Token  bulwark.TokenID   `json:"token,omitempty"` // of the person's, if the key is a token's
	Scopes []statement.Scope `json:"scopes,omitempty"`
	Grants []right.Grant     `json:"grants,omitempty"` // of the person
}

// Members asks who belongs to an organisation.
type Members struct {
	Org bulwark.OrgID `json:"org"`
}

// Member is somebody's role in an organisation, or in a project of it.
type Member struct {
	Person  bulwark.PersonID  `json:"person,omitempty"`
	Name    string            `json:"name"`
	Project bulwark.ProjectID `json:"project,omitempty"`
	Role    bulwark.Role      `json:"role"`
	// Invited is until when an invitation is good that nobody has taken up; Person is empty then.
	Invited *time.Time `json:"invited,omitempty"`
	// Invitation is its key's fingerprint.
	Invitation string `json:"invitation,omitempty"`
}

// Tokens asks for somebody's access tokens.
type Tokens struct {
	Person bulwark.PersonID `json:"person"`
}

// Token is an access token; its key stays where it was made.
type Token struct {
	ID     bulwark.TokenID   `json:"id"`
	Name   string            `json:"name"`
	Person bulwark.PersonID  `json:"person"`
	Scopes []statement.Scope `json:"scopes"`
	Until  time.Time         `json:"until"`
	Ended  bool              `json:"ended,omitempty"`
}

// Key is a key of a person's that was not removed.
type Key struct {
	Kind        string           `json:"kind"` // "device" or "ssh"
	Fingerprint string           `json:"fingerprint"`
	Person      bulwark.PersonID `json:"person"`
}

// Build asks for the image that an accepted document is to become. Asking again for one that is under way joins it; for
// one that is done returns its result.
type Build struct {
	Build bulwark.BuildID `json:"build"`
	Cause bulwark.Digest  `json:"cause"`
}

// BuildEvent is one line of a build's answer. The last has Done or Error.
type BuildEvent struct {
	Log   string `json:"log,omitempty"`
	Stage string `json:"stage,omitempty"`
	// Reached comes once, when the builder has ended, whatever came of it.
	Reached []Reached      `json:"reached,omitempty"`
	Done    *Built         `json:"done,omitempty"`
	Error   *bulwark.Error `json:"error,omitempty"`
}

// Built is the outcome of a build as the node saw it.
type Built struct {
	Image      bulwark.Digest   `json:"image"`
	Provenance []byte           `json:"provenance"` // envelope
	Plan       bulwark.Plan     `json:"plan"`
	Own        bulwark.Duration `json:"own,omitzero"`
	Reached    []Reached        `json:"reached,omitempty"`
}

// Reached is a place that a build reached or was refused.
type Reached struct {
	Host    string `json:"host"`
	Port    uint16 `json:"port"`
	Allowed bool   `json:"allowed"`
	Count   int    `json:"count"`
	Reason  string `json:"reason,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
}

// SBOM asks for the list of components of the image that a build made, in a format: "spdx" or "cyclonedx".
type SBOM struct {
	Build  bulwark.BuildID `json:"build"`
	Format string          `json:"format"`
}

// SBOMDocument is the answer, with the provenance that names the document by its digest.
type SBOMDocument struct {
	Document   []byte `json:"document"`
	MediaType  string `json:"media_type"`
	Provenance []byte `json:"provenance"` // envelope
}

// Package asks which releases that serve contain a package, of the apps that are named.
type Package struct {
	Name    string          `json:"name"`
	Version string          `json:"version,omitempty"` // any if empty
	Apps    []bulwark.AppID `json:"apps"`
}

// PackageUse is the answer. Unknown are apps whose image could not be looked into in whole, so that nothing found says nothing.
type PackageUse struct {
	Found   []PackageFound  `json:"found"`
	Unknown []bulwark.AppID `json:"unknown"`
}

// PackageFound is a package in a release that serves.
type PackageFound struct {
	App     bulwark.AppID  `json:"app"`
	Release uint64         `json:"release"`
	Image   bulwark.Digest `json:"image"`
	Kind    string         `json:"kind"`
	Name    string         `json:"name"`
	Version string         `json:"version,omitempty"`
	URL     string         `json:"url"` // package URL
}

// Release asks for the release that follows from an accepted document.
type Release struct {
	Cause bulwark.Digest `json:"cause"`
}

// Released is a release with all that verifies it.
type Released struct {
	Bundle  statement.Bundle  `json:"bundle"`
	Release statement.Release `json:"release"`
}

// Start asks for an instance of a release.
type Start struct {
	Bundle   statement.Bundle    `json:"bundle"`
	Instance bulwark.InstanceID  `json:"instance"`
	Process  bulwark.ProcessType `json:"process"`
	Index    int                 `json:"index,omitempty"` // the number in its name, for people
	Job      bool                `json:"job,omitempty"`   // Process is the name of one of the release's cron jobs
}

// Instance is the state of an instance as the node sees it.
type Instance struct {
	Instance   bulwark.InstanceID  `json:"instance"`
	App        bulwark.AppID       `json:"app"`
	Process    bulwark.ProcessType `json:"process"`
	Generation uint64              `json:"generation"`
	Phase      Phase               `json:"phase"`
	ExitCode   int                 `json:"exit_code,omitempty"`
	Reason     string              `json:"reason,omitempty"` // why it failed, for people
	Since      time.Time           `json:"since"`
	Isolation  bulwark.Isolation   `json:"isolation,omitempty"`
	At         netip.AddrPort      `json:"at,omitzero"` // in the verb instances: where it is expected to listen
	// Kind is set for what runs once; the others are for people, and set along with it.
	Kind    Kind         `json:"kind,omitempty"`
	Name    string       `json:"name,omitempty"`
	Command string       `json:"command,omitempty"`
	Size    bulwark.Size `json:"size,omitempty"`
}

// Kind tells what runs once from the instances of a process type, which the server keeps up.
type Kind string

// The kinds. A run ends with the connection of who listens to it; nothing of a kind is ever registered with dial.
const (
	KindRun      Kind = "run"
	KindDetached Kind = "detached"
	KindJob      Kind = "job"
)

// Ran is the answer to a statement app.run that is detached; to any other the connection becomes the terminal's.
type Ran struct {
	Welcome []byte `json:"welcome"` // envelope, see package terminal
}

// Upgrade is the protocol that a connection is upgraded to for a terminal.
const Upgrade = "bulwark-terminal"

// Phase is where an instance stands.
type Phase string

// The phases. An instance of a process type other than web is healthy as soon as it runs.
const (
	PhaseStarting Phase = "starting"
	PhaseHealthy  Phase = "healthy"
	PhaseSick     Phase = "unhealthy" // it was healthy and does not answer now
	PhaseExited   Phase = "exited"
	PhaseFailed   Phase = "failed" // it did not become healthy in time
	PhaseStopping Phase = "stopping"
)

// Over tells that the instance will not serve (again).
func (p Phase) Over() bool { return p == PhaseExited || p == PhaseFailed }

// Stop asks an instance to end: SIGTERM, after Grace SIGKILL. It answers when the instance is gone.
type Stop struct {
	Instance bulwark.InstanceID `json:"instance"`
	Grace    bulwark.Duration   `json:"grace"`
}

// Canary asks for a virtual patch against a mark that nobody else sends, for a minute: so the prober sees how long it takes to raise one. Root alone may
// ask. Without a mark it is taken away.
type Canary struct {
	Mark   string `json:"mark,omitempty"` // 32 hexadecimal digits
	DryRun bool   `json:"dry_run,omitempty"`
}

// CanaryHeader is where the mark is looked for.
const CanaryHeader = "Bulwark-Canary"

// Patch is a virtual patch with who made it.
type Patch struct {
	bulwark.Patch
	Version int              `json:"version"`
	Person  bulwark.PersonID `json:"person"`
	Added   time.Time        `json:"added"`
}

// Opened is what was opened beyond the internet to what connects for apps and builds, by statements of the apps' owners and by the
// operator's configuration.
type Opened struct {
	Ranges []OpenedRange `json:"ranges"`
	Ports  []uint16      `json:"ports"` // on which a name may lead to an inner address; 0 means any
}

// OpenedRange is a range of addresses with a port, 0 for any.
type OpenedRange struct {
	To   netip.Prefix `json:"to"`
	Port uint16       `json:"port"`
}

// Promote raises the app's high-water mark.
type Promote struct {
	App        bulwark.AppID `json:"app"`
	Generation uint64        `json:"generation"`
}

// Promoted asks which of an app's releases was promoted last, and is answered with its generation, 0 for none.
type Promoted struct {
	App        bulwark.AppID `json:"app"`
	Generation uint64        `json:"generation,omitempty"`
}

// Approvals is the answer to Promote's question whether a release waits for others: how many approvals it lacks, and the
// statements of those that count.
type Approvals struct {
	Missing   int      `json:"missing"`
	Documents [][]byte `json:"documents,omitempty"`
}

// Running asks for the node's signed word on what runs.
type Running struct {
	App       bulwark.AppID `json:"app"`
	Challenge string        `json:"challenge"`
}

// Envelope is a signed answer.
type Envelope struct {
	Envelope []byte `json:"envelope"`
}

// Sealed is a value sealed to who asked.
type Sealed struct {
	Sealed []byte `json:"sealed"`
}

// Logs asks for the log of an instance.
type Logs struct {
	Instance bulwark.InstanceID `json:"instance"`
	Tail     int                `json:"tail,omitempty"` // last lines; 0 means all
	Follow   bool               `json:"follow,omitempty"`
	// UntilEnd has a following reader stop when the instance has ended.
	UntilEnd bool `json:"until_end,omitempty"`
}

// AppLogs asks for the log of an app: the last Tail lines, 0 for all that is kept, and new ones if Follow is set.
type AppLogs struct {
	App    bulwark.AppID `json:"app"`
	Tail   int           `json:"tail,omitempty"`
	Follow bool          `json:"follow,omitempty"`
}

// AppLogLine is one line of it.
type AppLogLine struct {
	At   time.Time `json:"at"`
	Name string    `json:"name"` // "web.1"
	Text string    `json:"text"`
}

// LogLine is one line of an app's log.
type LogLine struct {
	Instance bulwark.InstanceID `json:"instance"`
	Text     string             `json:"text"`
}

// Package certsapi is how the certs process speaks to the node: what names to have certificates for, how they stand, and where what it
// has to remember is kept. HTTP and JSON over a unix socket that only the user of the certs process can connect to.
//
// It promises that the node is told states and bytes, and is asked to do nothing. Whoever owns the certs process can say wrong things of its
// own certificates, and spoil what it keeps, within bounds.
package certsapi

import (
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Orders is what certificates are wanted for, and from whom.
type Orders struct {
	Version     string             `json:"version"` // another one if anything else is another
	Hosts       []bulwark.HostName `json:"hosts"`
	Authorities []Authority        `json:"authorities"` // in the order in which they are asked
	Email       string             `json:"email,omitempty"`
	// Updates is where records of the DNS can be set to prove names, nil if nowhere.
	Updates *Updates `json:"updates,omitempty"`
	// NameServer is "ADDRESS:PORT" of the name server to ask, empty for those that the host asks.
	NameServer string `json:"name_server,omitempty"`
	// Again counts how often somebody wanted a certificate for a host tried at once.
	Again map[bulwark.HostName]uint64 `json:"again,omitempty"`
}

// Updates is a name server that takes updates (RFC 2136) signed by a key (RFC 8945).
type Updates struct {
	Server    string `json:"server"` // "ADDRESS:PORT"
	KeyName   string `json:"key_name"`
	Algorithm string `json:"algorithm"` // "hmac-sha256."
	Key       string `json:"key"`       // base64
}

// Authority is a certificate authority that speaks ACME (RFC 8555).
type Authority struct {
	Directory string `json:"directory"`       // URL
	Roots     []byte `json:"roots,omitempty"` // PEM, whom to trust when it is asked; empty: whom the host trusts
	EAB       *EAB   `json:"eab,omitempty"`   // external account binding, where it asks for one
}

// EAB is what an authority gave its customer (RFC 8555 §7.3.4).
type EAB struct {
	KeyID  string `json:"key_id"`
	MACKey string `json:"mac_key"` // base64url
}

// Stage is how far the certificate of a host is.
type Stage string

// The stages.
const (
	Waiting Stage = "waiting" // for its turn, or for the next try
	Issuing Stage = "issuing"
	Issued  Stage = "issued"  // and served; it may be that its renewal fails, see Error
	Brought Stage = "brought" // by the app's people; nobody is asked before it comes to its end
	Foreign Stage = "foreign" // no public authority issues for such a name
)

// Status is how the certificate of a host stands.
type Status struct {
	Host      bulwark.HostName `json:"host"`
	Stage     Stage            `json:"stage"`
	Issuer    string           `json:"issuer,omitempty"` // as the certificate names it
	NotBefore time.Time        `json:"not_before,omitzero"`
	NotAfter  time.Time        `json:"not_after,omitzero"`
	RenewAt   time.Time        `json:"renew_at,omitzero"` // when it will be renewed at the latest
	Error     string           `json:"error,omitempty"`   // of the last try, if it failed
	Tried     time.Time        `json:"tried,omitzero"`
	Next      time.Time        `json:"next,omitzero"` // when it is tried again
	Failures  int              `json:"failures,omitempty"`
	CAA       []string         `json:"caa,omitempty"` // values of CAA records by which nobody but us gets a certificate for the host (RFC 8657)
}

// Kept is something that is kept for the process.
type Kept struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// Bounds of what is kept.
const (
	MaxKey   = 512       // bytes of a key
	MaxValue = 256 << 10 // bytes of a value
	MaxKept  = 500_000   // things
)

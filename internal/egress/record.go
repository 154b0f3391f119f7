package egress

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Verdict says how a connection went.
type Verdict string

// The verdicts.
const (
	Reached Verdict = "reached" // it was allowed and connected
	Refused Verdict = "refused" // policy said no, at once or in the middle
	Failed  Verdict = "failed"  // it was allowed and did not come about
)

// Reason says why a connection was refused or failed.
type Reason string

// The reasons.
const (
	Unlisted      Reason = "unlisted"       // no rule opens this host and port
	ClosedAddress Reason = "closed_address" // the name leads to an inner network or to the machine itself
	NotTLS        Reason = "not_tls"        // what was said on the TLS port is no TLS
	NoServerName  Reason = "no_server_name" // the handshake names no host
	OtherName     Reason = "other_name"     // the handshake names another host than the one that was asked for
	HiddenName    Reason = "hidden_name"    // the handshake hides a name (encrypted client hello)
	TooManyConns  Reason = "too_many_conns"
	TooManyBytes  Reason = "too_many_bytes"
	BadRequest    Reason = "bad_request"
	NotResolved   Reason = "not_resolved"
	NotConnected  Reason = "not_connected"
	ClientGone    Reason = "client_gone" // the builder hung up before it said anything
)

// Entry tells of all connections of a build to one host and port that ended in the same way.
type Entry struct {
	Host      string           `json:"host"` // as the builder asked for it, if it could be read
	Port      uint16           `json:"port"`
	Verdict   Verdict          `json:"verdict"`
	Reason    Reason           `json:"reason,omitempty"`
	Addresses []netip.Addr     `json:"addresses,omitempty"` // at most 16
	Count     int              `json:"count"`
	Open      int              `json:"open,omitempty"` // how many of them have not ended
	Up        int64            `json:"up"`             // bytes from the builder
	Down      int64            `json:"down"`           // bytes to the builder
	First     time.Time        `json:"first"`          // start of the first
	Last      time.Time        `json:"last"`           // start of the last
	Time      bulwark.Duration `json:"time"`           // their durations together
}

// Report is what a build reached and what it was refused.
type Report struct {
	Build   bulwark.BuildID `json:"build"`
	App     bulwark.AppName `json:"app"`
	Entries []Entry         `json:"entries"`
	// Lost counts connections whose entry did not fit: a builder that asks for ever new names cannot fill the memory.
	Lost int `json:"lost,omitempty"`
}

const (
	maxEntries        = 1000
	maxEntryAddresses = 16
)

// flow is one connection while it lives. up and down are counted by its two copying goroutines.
type flow struct {
	up, down atomic.Int64
	start    time.Time

	mu      sync.Mutex // guards what follows
	host    string
	port    uint16
	address netip.Addr
	verdict Verdict
	reason  Reason
}

// end sets the outcome; the first one that is not Reached stays, as it is the cause of what comes after.
func (f *flow) end(v Verdict, r Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verdict == "" || f.verdict == Reached {
		f.verdict, f.reason = v, r
	}
}

type entryKey struct {
	host    string
	port    uint16
	verdict Verdict
	reason  Reason
}

// ledger adds up a build's connections.
type ledger struct {
	mu      sync.Mutex // guards all below; taken before a flow's own
	entries map[entryKey]*Entry
	live    map[*flow]struct{}
	lost    int
}

func newLedger() *ledger {
	return &ledger{entries: map[entryKey]*Entry{}, live: map[*flow]struct{}{}}
}

func (l *ledger) begin() *flow {
	f := &flow{start: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live[f] = struct{}{}
	return f
}

// close moves f to the finished ones and reports whether it is the first of its entry. A flow that never became
// anything (an idle connection that asked nothing) leaves no trace.
func (l *ledger) close(f *flow) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, f)
	return add(l.entries, f, false, &l.lost)
}

func (l *ledger) snapshot() ([]Entry, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := make(map[entryKey]*Entry, len(l.entries))
	for k, e := range l.entries {
		c := *e
		c.Addresses = slices.Clone(e.Addresses)
		sum[k] = &c
	}
	lost := l.lost
	for f := range l.live {
		add(sum, f, true, &lost)
	}
	all := make([]Entry, 0, len(sum))
	for _, e := range sum {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Verdict, b.Verdict),
			cmp.Compare(a.Reason, b.Reason))
	})
	return all, lost
}

func add(sum map[entryKey]*Entry, f *flow, open bool, lost *int) (first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verdict == "" {
		return false
	}
	k := entryKey{f.host, f.port, f.verdict, f.reason}
	e := sum[k]
	if e == nil {
		if len(sum) >= maxEntries {
			*lost++
			return false
		}
		e = &Entry{Host: f.host, Port: f.port, Verdict: f.verdict, Reason: f.reason, First: f.start}
		sum[k] = e
		first = true
	}
	e.Count++
	if open {
		e.Open++
	}
	e.Up += f.up.Load()
	e.Down += f.down.Load()
	e.Time += bulwark.Duration(time.Since(f.start))
	if f.start.Before(e.First) {
		e.First = f.start
	}
	if f.start.After(e.Last) {
		e.Last = f.start
	}
	if f.address.IsValid() && len(e.Addresses) < maxEntryAddresses && !slices.Contains(e.Addresses, f.address) {
		e.Addresses = append(e.Addresses, f.address)
	}
	return first
}

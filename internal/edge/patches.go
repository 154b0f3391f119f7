package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// patches are the virtual patches over all apps.
type patches struct {
	current atomic.Pointer[patchSet]

	mu     sync.Mutex // guards what follows; held while rules are read
	serial uint64     // of what the supervisor holds
	said   []byte     // by the node, last
	failed []bulwark.PatchStats
}

// patchSet is one version of them. It is immutable.
type patchSet struct {
	list []*livePatch
	body bool // one of them looks at bodies
}

// livePatch is a patch that is asked about every request. It outlives the sets that name it.
type livePatch struct {
	what  bulwark.Patch
	rules *waf.Patch
	hits  atomic.Int64
	last  atomic.Int64 // when a request met it last, in Unix nanoseconds
}

func newPatches() *patches {
	p := &patches{}
	p.current.Store(&patchSet{})
	return p
}

// replace puts a list in the place of all that were there. What stays goes on counting; what cannot be read is left out, and told.
func (p *patches) replace(list []bulwark.Patch, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := &patchSet{}
	p.failed = nil
	for _, v := range list {
		if !v.Until.After(now) {
			continue
		}
		live, err := p.live(v)
		if err != nil {
			p.failed = append(p.failed, bulwark.PatchStats{Name: v.Name, Digest: v.Digest(), Error: sentenceOf(err)})
			continue
		}
		next.list = append(next.list, live)
		next.body = next.body || live.rules.Body
	}
	p.current.Store(next)
}

// live returns a patch that is asked, that from before if it is the same. The caller holds mu.
func (p *patches) live(v bulwark.Patch) (*livePatch, error) {
	var rules *waf.Patch
	for _, before := range p.current.Load().list {
		switch {
		case before.what == v:
			return before, nil
		case before.what.Rules == v.Rules:
			rules = before.rules
		}
	}
	if rules == nil {
		if err := v.Check(); err != nil {
			return nil, err
		}
		var err error
		if rules, err = waf.ParsePatch(v.Name, v.Rules); err != nil {
			return nil, err
		}
	}
	return &livePatch{what: v, rules: rules}, nil
}

func sentenceOf(err error) string {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e.Message
	}
	return "The rules cannot be read."
}

// stats tells how they stand.
func (p *patches) stats() []bulwark.PatchStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := append([]bulwark.PatchStats{}, p.failed...)
	for _, v := range p.current.Load().list {
		s := bulwark.PatchStats{Name: v.what.Name, Digest: v.what.Digest(), Live: true, Hits: int(v.hits.Load())}
		if at := v.last.Load(); at != 0 {
			s.Last = time.Unix(0, at).UTC()
		}
		out = append(out, s)
	}
	return out
}

// patched asks the patches about a request; false: one of them refused it.
func (x *exchange) patched(set *patchSet, q *waf.Request) bool {
	// What an app's people excluded is about the firewall's rules: a patch is over all apps, and its rules have numbers of their own.
	asked := *q
	asked.Exclude = nil
	for _, p := range set.list {
		if !x.start.Before(p.what.Until) {
			continue
		}
		v := p.rules.Look(&asked)
		if !v.Attack {
			continue
		}
		p.hits.Add(1)
		p.last.Store(x.start.UnixNano())
		why := bulwark.RefusedPatch
		if p.what.DryRun {
			why = bulwark.NotedPatch
		}
		example := x.example(why)
		example.Patch, example.Rules = p.what.Name, telling(v.Rules)
		x.guard.tally.note(example)
		if !p.what.DryRun {
			x.fault = string(why)
			x.refuse(pageAttack)
			return false
		}
	}
	return true
}

// storedPatches is what is kept over a restart.
type storedPatches struct {
	Serial  uint64          `json:"serial"`
	Patches []bulwark.Patch `json:"patches"`
}

func decodeStoredPatches(b []byte) (storedPatches, error) {
	var s storedPatches
	err := fdpass.Decode(b, &s)
	return s, err
}

// putPatches takes all patches from the node.
func (e *edge) putPatches(r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	var list []bulwark.Patch
	if err := fdpass.Decode(b, &list); err != nil {
		return err
	}
	e.certs.mu.Lock() // one message of the node at a time
	defer e.certs.mu.Unlock()
	if bytes.Equal(b, e.patches.said) {
		return nil
	}
	stored, err := json.Marshal(storedPatches{Serial: e.patches.serial + 1, Patches: list})
	if err != nil {
		return errors.Join(errors.New("encode patches"), err)
	}
	if err := e.store.keep(keptPatches, stored); err != nil {
		return err
	}
	e.patches.serial++
	e.patches.said = b
	e.patches.replace(list, time.Now())
	e.guards.toldPatches.Store(true)
	return nil
}

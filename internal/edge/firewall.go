package edge

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// firewall has requests looked at: before they go on where an attack is to be refused, and afterwards, by workers of its own, where it is
// only to be noted. So nobody waits for a look that refuses nothing; and looks take a share of the processors that is bounded, since some
// requests take long to look at.
type firewall struct {
	rules  atomic.Pointer[waf.Firewall]
	loaded chan struct{} // closed when there are rules
	wanted chan struct{} // closed when somebody wants them
	want   func()        // closes it
	looks  chan struct{} // looks that are waited for
	queue  chan *sight
	copied atomic.Int64 // bytes of bodies that are kept for a look
	short  func() bool  // whether processors are short
	// observe is told of each look; tests watch it.
	observe func(id string, v waf.Verdict)
}

// Bounds of what waits to be looked at.
const (
	sightsMost   = 512             // requests
	sightsOfApp  = sightsMost / 4  // of one app
	bytesOfApp   = 16 << 20        // of bodies, of one app
	sightsBytes  = 64 << 20        // of bodies
	lookPatience = 3 * time.Second // for one's turn
	lookWaiters  = 64              // of one app
)

// newFirewall makes one with its rules, or one that waits for them: see load.
func newFirewall(rules *waf.Firewall) *firewall {
	f := &firewall{looks: make(chan struct{}, runtime.GOMAXPROCS(0)), queue: make(chan *sight, sightsMost), loaded: make(chan struct{}), wanted: make(chan struct{}),
		observe: func(string, waf.Verdict) {}, short: func() bool { return false }}
	f.want = sync.OnceFunc(func() { close(f.wanted) })
	if rules != nil {
		f.rules.Store(rules)
		close(f.loaded)
	}
	return f
}

// load reads the rules when the first request is to be looked at: what has to be looked at before it goes on waits for that. Where
// nothing is served they take no memory.
func (f *firewall) load(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-f.wanted:
	}
	if f.rules.Load() != nil {
		return nil
	}
	rules, err := waf.New(waf.Config{})
	if err != nil {
		return err
	}
	f.rules.Store(rules)
	close(f.loaded)
	debug.FreeOSMemory() // reading took as much as the rules themselves take
	return nil
}

// hold counts bytes of bodies that are kept, of an app and of all; less than 0: that are kept no more.
func (f *firewall) hold(g *guard, bytes int64) {
	f.copied.Add(bytes)
	g.held.Add(bytes)
}

// share is how many looks of one app's requests may be waited for at a time: half of the processors.
func (f *firewall) share() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// sight is a request with what the firewall looks at.
type sight struct {
	request waf.Request
	guard   *guard
	example bulwark.ShieldExample
	body    *firstBytes // of the request; nil: none
	status  int         // of the answer; 0: there was none of the app's
	header  http.Header // of the answer
	answer  firstBytes  // its body
	keeps   bool        // its body is looked at
	// likeness is what is remembered of it if it is harmless; 0: nothing.
	likeness uint64
}

// reply is the answer as it is looked at; nil: there was none.
func (s *sight) reply() *waf.Reply {
	if s.status == 0 {
		return nil
	}
	return &waf.Reply{Status: s.status, Header: s.header, Body: s.answer.kept}
}

// keep keeps a piece of the answer, if it is looked at.
func (s *sight) keep(p []byte) {
	if s != nil && s.keeps {
		s.answer.keep(p)
	}
}

// size is how much of bodies is kept, in bytes.
func (s *sight) size() int64 {
	n := cap(s.answer.kept)
	if s.body != nil {
		n += cap(s.body.kept)
	}
	return int64(n)
}

// run looks at what waits, until ctx ends.
func (f *firewall) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-f.loaded:
	}
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-f.queue:
			began := time.Now()
			f.noteOf(s)
			if len(f.queue) == 0 {
				continue
			}
			// Where more comes than can be looked at, half of one processor's time goes into it, and where processors are short a
			// twentieth: the rest is for serving.
			select {
			case <-ctx.Done():
				return
			case <-time.After(restAfter(time.Since(began), f.short())):
			}
		}
	}
}

func restAfter(took time.Duration, short bool) time.Duration {
	if short {
		return 20 * took
	}
	return took
}

// noteOf looks at a request and notes what it is.
func (f *firewall) noteOf(s *sight) {
	defer func() {
		s.guard.queued.Add(-1)
		f.hold(s.guard, -s.size())
		if recover() != nil { // it tripped over what it read: that is worth a note, and must not end the edge
			s.example.Reason = bulwark.SkippedWAF
			s.guard.tally.note(s.example)
		}
	}()
	v := f.rules.Load().Look(&s.request, s.reply())
	f.observe(s.request.ID, v)
	if v.Attack {
		s.example.Reason, s.example.Rules = bulwark.NotedWAF, telling(v.Rules)
		s.guard.tally.note(s.example)
		s.guard.learned.learn(s, v.Rules)
	} else if s.likeness != 0 {
		s.guard.remember(s.likeness)
	}
}

// maxRules bounds the rules of an example.
const maxRules = 12

// telling are the rules of an example: without those that only set up what others need, the gravest of them first, and the last, which decided.
func telling(all []bulwark.WAFRule) []bulwark.WAFRule {
	out := slices.DeleteFunc(slices.Clone(all), func(r bulwark.WAFRule) bool { return r.ID/1000 == 901 || r.ID/1000 == 980 })
	if last := len(out) - 1; last > 0 { // the last adds up what the others found
		slices.SortStableFunc(out[:last], func(a, b bulwark.WAFRule) int { return cmp.Compare(a.Severity, b.Severity) })
	}
	if len(out) > maxRules {
		out[maxRules-1] = out[len(out)-1]
		out = out[:maxRules]
	}
	return out
}

// inspected has patches and firewall look at the request, now or later; false: it was refused and answered.
func (x *exchange) inspected(c *chosen) bool {
	patches := x.e.patches.current.Load()
	blocks := c.mode == bulwark.WAFBlock
	if c.mode == bulwark.WAFOff && len(patches.list) == 0 {
		return true
	}
	x.e.firewall.want()
	s := &sight{guard: x.guard, answer: firstBytes{f: x.e.firewall, g: x.guard}}
	now := blocks || patches.body
	if now {
		kept, why := x.firstOfBody()
		if why != nil {
			x.refuse(*why)
			return false
		}
		x.describe(s, c, kept)
	} else if len(patches.list) > 0 {
		x.describe(s, c, nil)
	}
	if len(s.request.Body) > 0 && len(patches.list) > 0 {
		if !x.e.firewall.turn(x.r.Context(), x.guard) {
			x.decline(bulwark.RefusedBusy, pageBusy)
			return false
		}
		passed := func() bool {
			defer x.e.firewall.over(x.guard)
			return x.patched(patches, &s.request)
		}()
		if !passed {
			return false
		}
	} else if !x.patched(patches, &s.request) {
		return false
	}
	switch {
	case c.mode == bulwark.WAFOff:
		return true
	case !blocks:
		x.sight = s
		if now {
			s.body = &firstBytes{kept: s.request.Body}
			x.held -= int64(cap(s.request.Body)) // it is the sight's now
		} else {
			x.keepBody()
		}
		return true
	}
	x.yield() // looks have turns of their own
	if !x.e.firewall.turn(x.r.Context(), x.guard) {
		x.decline(bulwark.RefusedBusy, pageBusy)
		return false
	}
	func() {
		defer x.e.firewall.over(x.guard) // should the firewall trip over what it reads
		x.look, x.looked = x.e.firewall.rules.Load().Begin(&s.request), &s.request
	}()
	if x.look.Attack() {
		x.attack()
		return false
	}
	return true
}

// attack refuses what was looked at, and says so.
func (x *exchange) attack() {
	x.fault = string(bulwark.RefusedWAF)
	example := x.example(bulwark.RefusedWAF)
	example.Rules = telling(x.look.Verdict().Rules)
	x.guard.tally.note(example)
	x.refuse(pageAttack)
}

// givesAway has the firewall look at an answer before it is sent; true: it was refused. held is what was read of the body.
func (x *exchange) givesAway(resp *http.Response, held []byte) bool {
	if !x.e.firewall.turn(x.r.Context(), x.guard) {
		x.decline(bulwark.RefusedBusy, pageBusy)
		return true
	}
	func() {
		defer x.e.firewall.over(x.guard)
		x.look.Reply(x.looked, &waf.Reply{Status: resp.StatusCode, Header: resp.Header, Body: held})
	}()
	if x.look.Attack() {
		x.attack()
		return true
	}
	return false
}

// turn waits for one's turn to look, which the app's share and the processors bound.
func (f *firewall) turn(ctx context.Context, g *guard) bool {
	if g.queued.Add(1) > lookWaiters {
		g.queued.Add(-1)
		return false
	}
	defer g.queued.Add(-1)
	t := time.NewTimer(lookPatience)
	defer t.Stop()
	select {
	case <-f.loaded:
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case g.looks <- struct{}{}:
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case f.looks <- struct{}{}:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	<-g.looks
	return false
}

func (f *firewall) over(g *guard) {
	<-f.looks
	<-g.looks
}

// describe fills in what is looked at.
func (x *exchange) describe(s *sight, c *chosen, body []byte) {
	s.request = waf.Request{ID: x.id, Client: x.client, Method: x.r.Method, Target: x.target, Proto: x.r.Proto, Host: x.r.Host, Header: x.r.Header,
		Framing: x.r.TransferEncoding, Body: body, Exclude: c.shield.Exclude}
}

// endLook gives back what a look took that was waited for.
func (x *exchange) endLook() {
	if x.look != nil {
		x.e.firewall.observe(x.id, x.look.Verdict())
		x.look.End()
		x.look = nil
	}
}

// letGo counts what was kept of bodies out.
func (x *exchange) letGo() {
	if x.held != 0 {
		x.e.firewall.hold(x.guard, -x.held)
		x.held = 0
	}
}

// sighted has the request looked at, if somebody has time. It is called when there is nothing more to see of it.
func (x *exchange) sighted() {
	s := x.sight
	if s == nil {
		return
	}
	x.sight = nil
	f := x.e.firewall
	var body []byte
	if s.body != nil {
		body = s.body.kept
	}
	c := x.guard.chosen.Load()
	if s.likeness = x.likeness(s, c); x.guard.alike.Load().has(s.likeness) {
		f.hold(x.guard, -s.size())
		return
	}
	x.describe(s, c, body)
	s.example = x.example(bulwark.SkippedWAF)
	if x.guard.queued.Add(1) <= sightsOfApp && (s.body == nil || !s.body.dropped) && !s.answer.dropped {
		select {
		case f.queue <- s:
			return
		default:
		}
	}
	x.guard.queued.Add(-1)
	f.hold(x.guard, -s.size())
	x.guard.tally.note(s.example)
}

// keepBody has the beginning of the request's body kept as it passes.
func (x *exchange) keepBody() {
	if x.framing == noBody {
		return
	}
	x.sight.body = &firstBytes{ReadCloser: x.r.Body, f: x.e.firewall, g: x.guard}
	x.r.Body = x.sight.body
}

// firstBytes is a body of which the beginning is kept.
type firstBytes struct {
	io.ReadCloser
	f       *firewall
	g       *guard
	kept    []byte
	dropped bool // there was no room
}

// Read reads on, and keeps what is read.
func (b *firstBytes) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.keep(p[:n])
	return n, err
}

// keep keeps a piece, while there is room.
func (b *firstBytes) keep(p []byte) {
	n := len(p)
	if room := waf.MaxBody - len(b.kept); n > 0 && room > 0 && !b.dropped {
		before := cap(b.kept)
		b.kept = append(b.kept, p[:min(n, room)]...)
		b.f.hold(b.g, int64(cap(b.kept)-before))
		if len(b.kept) > smallBody && (b.f.copied.Load() > sightsBytes || b.g.held.Load() > bytesOfApp) {
			b.f.hold(b.g, -int64(cap(b.kept)))
			b.kept, b.dropped = nil, true
		}
	}
}

// firstOfBody reads what is looked at of the body, and has the instance get it all the same. why is the answer if it cannot.
func (x *exchange) firstOfBody() (kept []byte, why *page) {
	if x.framing == noBody {
		return nil, nil
	}
	x.yield()
	// Reading has net/http tell the client to go on, so nobody has to ask the app.
	x.expects = false
	rc := http.NewResponseController(x.w)
	first := firstBytes{f: x.e.firewall, g: x.guard}
	buf := make([]byte, 4<<10)
	var end error
	for len(first.kept) < waf.MaxBody && end == nil {
		var n int
		n, end = x.readBody(rc, buf[:min(len(buf), waf.MaxBody-len(first.kept))], false)
		first.keep(buf[:n])
		if first.dropped {
			x.fault = string(bulwark.RefusedBusy)
			return nil, &pageBusy
		}
	}
	x.held = int64(cap(first.kept))
	_ = rc.SetReadDeadline(time.Time{}) // it would end the watch for a client that leaves
	if end != nil && end != io.EOF {
		x.fault = "request cut off"
		return nil, &pageSlowRequest
	}
	x.r.Body = &replayed{ReadCloser: x.r.Body, first: first.kept, end: end}
	return first.kept, nil
}

// replayed is a body of which the beginning was read before.
type replayed struct {
	io.ReadCloser
	first []byte
	end   error // of the body, if it ended there
}

// Read reads what was read before, then the rest.
func (b *replayed) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	if b.end != nil {
		return 0, b.end
	}
	return b.ReadCloser.Read(p)
}

package edge

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
)

const (
	recentRoom = 1 << 20 // bytes of lines of each of two halves, all apps together
	maxRecent  = 1000    // events of one answer
)

// recent holds the last lines of the access log, for people who look at it.
type recent struct {
	mu        sync.Mutex // guards what follows
	old, now  []byte     // whole lines
	oldAt, at uint64     // how many bytes there were before each
}

// add takes whole lines.
func (r *recent) add(lines []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.now)+len(lines) > recentRoom && len(r.now) > 0 {
		r.old, r.now = r.now, r.old[:0]
		r.oldAt, r.at = r.at, r.at+uint64(len(r.old))
	}
	if len(lines) > recentRoom { // not more than the writer's own room, which is the same
		r.at += uint64(len(lines))
		return
	}
	r.now = append(r.now, lines...)
}

// of returns an app's lines that begin at a place or after it, the last so many of them, and where the next one will be.
func (r *recent) of(app bulwark.AppID, after uint64, most int) (lines [][]byte, next uint64) {
	mark := append(text(nil, `,"app":`, string(app)), ',')
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, half := range []struct {
		at uint64
		b  []byte
	}{{r.oldAt, r.old}, {r.at, r.now}} {
		b := half.b
		if after > half.at {
			b = b[min(after-half.at, uint64(len(b))):]
		}
		for len(b) > 0 {
			n := bytes.IndexByte(b, '\n') + 1
			if n == 0 {
				n = len(b)
			}
			if bytes.Contains(b[:n], mark) {
				lines = append(lines, bytes.Clone(b[:n]))
			}
			b = b[n:]
		}
	}
	return lines[max(0, len(lines)-most):], r.at + uint64(len(r.now))
}

// accessEvents tells of an app's last requests.
func (e *edge) accessEvents(r *http.Request) (*bulwark.AccessEvents, error) {
	q := r.URL.Query()
	app, err := bulwark.ParseAppID(q.Get("app"))
	if err != nil {
		return nil, err
	}
	number := func(name string) (uint64, error) {
		if q.Get(name) == "" {
			return 0, nil
		}
		n, err := strconv.ParseUint(q.Get(name), 10, 63)
		if err != nil {
			err = bulwark.Invalid("\""+name+"\" is not a number.", "")
		}
		return n, err
	}
	after, err := number("after")
	if err != nil {
		return nil, err
	}
	most, err := number("most")
	if err != nil {
		return nil, err
	}
	if most == 0 || most > maxRecent {
		most = maxRecent
	}
	lines, next := e.log.recent.of(app, after, int(most)) //nolint:gosec // bounded above
	out := &bulwark.AccessEvents{Next: next, Events: []bulwark.AccessEvent{}}
	for _, l := range lines {
		var ev bulwark.AccessEvent
		if err := json.Unmarshal(l, &ev); err == nil && ev.App == app {
			if time.Since(ev.Time) >= bulwark.ClientsKnown {
				ev.Client = bulwark.CutClient(ev.Client)
			}
			out.Events = append(out.Events, ev)
		}
	}
	return out, nil
}

package edge

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/bulwark-paas/bulwark"
)

// Bounds of what is learned, which is what anybody sends.
const (
	learnMost    = 300 // exclusions of an app
	learnClients = 16  // that are told apart for each; more are so many
	learnPath    = 200 // bytes of a path, and of an argument
)

// learned are the exclusions that an app's own traffic would need: what was noted of requests that the app answered as it answers others.
type learned struct {
	mu   sync.Mutex
	seen map[bulwark.Exclusion]*learnedOf
}

type learnedOf struct {
	message  string
	requests int
	answered int      // with success
	clients  []uint64 // networks, by number
	example  string
}

// learn notes what a request met that was passed on.
func (l *learned) learn(s *sight, rules []bulwark.WAFRule) {
	client := maphash.String(alikeSeed, bulwark.CutClient(s.request.Client))
	path := prefixOf(s.example.Path)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[bulwark.Exclusion]*learnedOf{}
	}
	for _, r := range rules {
		if r.ID >= 949000 && r.ID < 990000 || r.ID/1000 == 901 || path == "" {
			continue // these only add up
		}
		e := bulwark.Exclusion{Rule: r.ID, Path: path}
		if of, arg, _ := strings.Cut(r.Where, ":"); strings.HasPrefix(of, "ARGS") || strings.HasPrefix(of, "REQUEST_COOKIES") {
			if e.Arg = arg; len(arg) > learnPath {
				continue
			}
		}
		v := l.seen[e]
		if v == nil {
			if len(l.seen) >= learnMost && !l.evict() {
				continue
			}
			v = &learnedOf{message: r.Message, example: s.request.ID}
			l.seen[e] = v
		}
		v.requests++
		if s.status >= 200 && s.status < 400 {
			v.answered++
		}
		if len(v.clients) < learnClients && !slices.Contains(v.clients, client) {
			v.clients = append(v.clients, client)
		}
	}
}

// evict makes room by an entry of one client alone: who invents arguments would keep everybody else's out. The caller holds mu.
func (l *learned) evict() bool {
	for e, v := range l.seen {
		if len(v.clients) < 2 {
			delete(l.seen, e)
			return true
		}
	}
	return false
}

// list is what was learned, what most clients met first, without what is excluded already.
func (l *learned) list(have []bulwark.Exclusion) []bulwark.LearnedExclusion {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []bulwark.LearnedExclusion
	for e, v := range l.seen {
		if !slices.Contains(have, e) {
			out = append(out, bulwark.LearnedExclusion{Exclusion: e, Message: v.message, Requests: v.requests, Answered: v.answered, Clients: len(v.clients), Example: v.example})
		}
	}
	slices.SortFunc(out, func(a, b bulwark.LearnedExclusion) int {
		return cmp.Or(cmp.Compare(b.Clients, a.Clients), cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Arg, b.Arg))
	})
	return out
}

// prefixOf is the part of a path that an app's routes have in common: what is before the first piece that looks like a number or a key of something.
// It is empty where no exclusion can name it.
func prefixOf(p string) string {
	if p == "" || p[0] != '/' {
		return ""
	}
	out := ""
	for piece := range strings.SplitSeq(p[1:], "/") {
		if piece == "" || piece == "." || piece == ".." || len(piece) > 40 || strings.ContainsAny(piece, "0123456789") || strings.ContainsFunc(piece, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`?#%"\`, r) }) {
			break
		}
		if len(out)+1+len(piece) > learnPath {
			break
		}
		out += "/" + piece
	}
	return cmp.Or(out, "/")
}

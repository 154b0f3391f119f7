package edge

import (
	"encoding/binary"
	"hash/maphash"
	"net/http"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	alikeSlots = 1024
	alikeFor   = time.Minute // the default, at most, after which the same is looked at again
)

// alike remembers which requests of an app were found harmless lately, with their answers: the same once more is the same. It is for looks that nobody
// waits for. Most of what an app is asked for is asked for again and again, and a look costs as much as ten answers.
type alike [alikeSlots]atomic.Uint64

// alikeSeed is not known outside: else somebody could have an attack taken for what was seen.
var alikeSeed = maphash.MakeSeed()

// has tells whether a likeness was found harmless.
func (a *alike) has(likeness uint64) bool {
	return a != nil && likeness != 0 && a[likeness%alikeSlots].Load() == likeness
}

func (a *alike) add(likeness uint64) { a[likeness%alikeSlots].Store(likeness) }

// likeness is a number that two requests have in common only if the firewall cannot tell them and their answers apart; 0: it is not known.
func (x *exchange) likeness(s *sight, c *chosen) uint64 {
	if s.body != nil || s.answer.dropped {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(alikeSeed)
	word := func(v string) {
		_, _ = h.WriteString(v)
		_ = h.WriteByte(0)
	}
	var b [8]byte
	number := func(n uint64) {
		binary.LittleEndian.PutUint64(b[:], n)
		_, _ = h.Write(b[:])
	}
	number(uint64(x.start.UnixNano() / int64(x.e.cfg.alikeFor))) //nolint:gosec // only whether it is the same counts
	number(uint64(uintptr(unsafe.Pointer(c))))                   //nolint:gosec // which choice of the app's people was in force; x holds it
	number(uint64(s.status))                                     //nolint:gosec // as above
	for _, v := range []string{x.r.Method, x.target, x.r.Proto, x.r.Host} {
		word(v)
	}
	number(fieldsAlike(x.r.Header))
	if s.status != 0 {
		number(fieldsAlike(s.header))
		_, _ = h.Write(s.answer.kept)
	}
	return max(h.Sum64(), 1)
}

// fieldsAlike is a number for a header in which the order of fields does not count, and the hour of the answer neither.
func fieldsAlike(header http.Header) uint64 {
	var sum uint64
	for k, values := range header {
		if k == "Date" {
			continue
		}
		var h maphash.Hash
		h.SetSeed(alikeSeed)
		_, _ = h.WriteString(k)
		for _, v := range values {
			_ = h.WriteByte(0)
			_, _ = h.WriteString(v)
		}
		sum += h.Sum64()
	}
	return sum
}

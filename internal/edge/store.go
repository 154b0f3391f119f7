package edge

import (
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// maxStored bounds what is taken back from the supervisor's store, and what a control message may hold.
const maxStored = 64 << 20

// The things that are stored. The supervisor refuses a name that one of the edge's listeners has ("certs" is one), so that
// what is handed over is never mistaken for a listener.
const (
	keptTable   = "table"
	keptCerts   = "certificates" // of the installation's own making
	keptIssued  = "issued"       // of certificate authorities
	keptShields = "shields"
	keptPow     = "challenge" // the key
	keptPatches = "patches"
)

// store hands sealed memory to the supervisor. Each thing alternates between two names and the older is removed only
// when the newer is there, so that there is no moment at which the store holds none.
type store struct {
	keeper Keeper

	mu   sync.Mutex
	last map[string]string // the name under which a thing was stored last
	// open is what was stored under that name. It stays open: when the supervisor dies or is replaced, the next one takes
	// the descriptors back out of this process.
	open map[string][]*os.File
}

func newStore(k Keeper) *store {
	return &store{keeper: k, last: map[string]string{}, open: map[string][]*os.File{}}
}

// adopt books that a predecessor stored the thing called name as files[stored], and takes those files.
func (s *store) adopt(name, stored string, files map[string][]*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[name], s.open[name] = stored, files[stored]
	delete(files, stored)
}

// keep stores data under name or its alternate.
func (s *store) keep(name string, data []byte) error {
	if s.keeper == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next, before := name, s.last[name]
	if before == name {
		next = name + "-2"
	}
	f, err := fdpass.Sealed(next, data)
	if err != nil {
		return notKept(err)
	}
	if err := s.keeper.NotifyStore(next, f); err != nil {
		f.Close()
		return notKept(err)
	}
	defer fdpass.CloseAll(s.open[name])
	s.last[name], s.open[name] = next, []*os.File{f}
	if before == "" {
		return nil
	}
	// If this fails the store holds both, and the newer one is taken.
	_ = s.keeper.NotifyRemove(before)
	return nil
}

func notKept(cause error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The supervisor did not take the edge's state, so nothing was changed.", "Try again.", cause)
}

// newest decodes the restored files whose name begins with prefix and returns the one of the highest order.
func newest[T any](files map[string][]*os.File, prefix string, decode func([]byte) (T, error), order func(T) uint64,
	logger *slog.Logger) (best T, bestName string, ok bool) {
	for name, list := range files {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		for _, f := range list {
			b, err := fdpass.ReadSealed(f, maxStored)
			if err != nil {
				logger.Error("cannot read a stored descriptor", "name", name, "error", err)
				continue
			}
			v, err := decode(b)
			if err != nil {
				logger.Error("cannot use a stored descriptor", "name", name, "error", err)
				continue
			}
			if !ok || order(v) > order(best) {
				best, bestName, ok = v, name, true
			}
		}
	}
	return best, bestName, ok
}

package instance

import (
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// Once returns what runs once of an app, or of all: commands that people run, which the node itself ends, and cron jobs. The
// manager leaves them alone.
func (m *Manager) Once(id bulwark.AppID) []nodeapi.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []nodeapi.Instance
	for _, i := range m.seen {
		if i.Kind != "" && (id == "" || i.App == id) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b nodeapi.Instance) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Instance), string(b.Instance))
	})
	return out
}

// lists tells how many lists of the node's were seen since the start.
func (m *Manager) lists() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// logMemory is what this machine remembers of an installation's audit log. It is what finds out an installation that was put
// back as a whole, node and all: nothing on it knows any better then.
type logMemory struct {
	Node       string        `json:"node"`
	Key        string        `json:"key"`                  // verifies checkpoints, in the form of package note
	Checkpoint string        `json:"checkpoint,omitempty"` // the newest that was seen, as it was signed
	Checked    inspect.State `json:"checked,omitzero"`     // by audit verify
	path       string
}

// memory reads what is remembered of a server's log; nothing, the first time.
func (st *store) memory(node string) (*logMemory, error) {
	origin, err := statement.LogOrigin(node)
	if err != nil {
		return nil, err
	}
	m := &logMemory{Node: node, path: filepath.Join(st.dir, "audit-"+filepath.Base(origin)[:16]+".json")}
	b, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, m)
	}
	if err != nil || m.Node != node {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The file "+m.path+", in which this machine remembers the audit log, is not well formed.",
			"If you know why, remove it; what this machine saw of the log is forgotten then.", err)
	}
	return m, nil
}

// save writes it, unless another command saw more of the log meanwhile.
func (m *logMemory) save(keys inspect.Keys) error {
	var there logMemory
	if b, err := os.ReadFile(m.path); err == nil && json.Unmarshal(b, &there) == nil {
		old, err := there.seen(keys)
		if err != nil {
			return err
		}
		now, err := m.seen(keys)
		if err != nil {
			return err
		}
		if old != nil && (now == nil || old.Size > now.Size) {
			m.Checkpoint = there.Checkpoint
		}
		if there.Checked.Size > m.Checked.Size {
			m.Checked = there.Checked
		}
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(m.path, append(b, '\n'), 0o600)
}

// seen opens the remembered checkpoint; nil if there is none.
func (m *logMemory) seen(keys inspect.Keys) (*inspect.Checkpoint, error) {
	if m.Checkpoint == "" {
		return nil, nil
	}
	return inspect.OpenCheckpoint([]byte(m.Checkpoint), keys)
}

// keys returns the keys of the log: the node's own came with the login token, and it vouches for the other.
func (m *logMemory) keys(ctx context.Context, s *session) (inspect.Keys, error) {
	keys := inspect.Keys{Node: s.server.key(), Log: m.Key}
	if m.Key != "" {
		return keys, nil
	}
	info, err := s.Info(ctx, "")
	if err != nil {
		return keys, err
	}
	if keys, err = inspect.KeysOf(info.Envelope, s.server.key()); err == nil {
		m.Key = keys.Log
	}
	return keys, err
}

// watchTime is how long a command looks at the log that has something else to do.
const watchTime = 5 * time.Second

// watchLog looks whether the audit log is the one that this machine saw, grown, and remembers where it stands. It warns, and
// does not fail: the command that calls it has another purpose.
func (c *cli) watchLog(ctx context.Context, s *session) {
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	if err := c.lookAtLog(ctx, s); err != nil {
		c.note("Warning: the audit log of %s: %s Check it with bulwark audit verify, and ask the operator.", s.server.URL, strings.TrimSpace(message(err)))
	}
}

func message(err error) string {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

func (c *cli) lookAtLog(ctx context.Context, s *session) error {
	m, keys, err := c.rememberedLog(ctx, s)
	if bulwark.KindOf(err) == bulwark.KindNotFound {
		return nil // a server from before there was a log
	}
	if err != nil {
		return err
	}
	return c.grown(ctx, s, m, keys)
}

// rememberedLog returns what this machine remembers of the log, and the log's keys.
func (c *cli) rememberedLog(ctx context.Context, s *session) (*logMemory, inspect.Keys, error) {
	st, err := openStore(c.env)
	if err != nil {
		return nil, inspect.Keys{}, err
	}
	m, err := st.memory(s.server.Node)
	if err != nil {
		return nil, inspect.Keys{}, err
	}
	keys, err := m.keys(ctx, s)
	return m, keys, err
}

// grown compares where the log stands with what is remembered, which it brings up to date.
func (c *cli) grown(ctx context.Context, s *session, m *logMemory, keys inspect.Keys) error {
	there, err := s.AuditCheckpoint(ctx, false)
	if err != nil {
		if m.Checkpoint == "" {
			return nil // it was just started, and nothing is to be compared
		}
		return bulwark.Fail(bulwark.KindUnavailable, "It was there, and is not shown now.", "", err)
	}
	if there.Refused != "" {
		return bulwark.Fail(bulwark.KindForbidden, "The node does not sign it any more: "+there.Refused, "", nil)
	}
	now, err := inspect.OpenCheckpoint(there.Note, keys)
	if err != nil {
		return err
	}
	seen, err := m.seen(keys)
	if err != nil {
		return err
	}
	if seen != nil {
		err := inspect.Follows(seen, now, func(from, to uint64) ([][]byte, error) { return s.AuditConsistency(ctx, from, to) })
		if err != nil {
			return err
		}
	}
	if seen == nil || now.Size > seen.Size {
		m.Checkpoint = string(now.Note)
		return m.save(keys)
	}
	return nil
}

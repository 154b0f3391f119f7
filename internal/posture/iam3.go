package posture

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func iam3() Control {
	return Control{ID: "IAM-3", Version: 1, Every: 6 * time.Hour,
		Promise: "Every action is recorded, and the record cannot be changed unnoticed.",
		Tries: "Changes something and looks for its entry; checks the log on disk against the node's signature and the last checkpoint that the prober saw; edits, " +
			"cuts, reorders, rolls back and re-signs a copy of it.",
		Probe: probeIAM3}
}

// diskLog is the audit log as it lies on the disk, with the chain that the node tells.
type diskLog struct {
	inspect.Dir
	node *nodeapi.Client
}

// Chain implements [inspect.Source].
func (d diskLog) Chain(ctx context.Context, after uint64) ([][]byte, []byte, error) {
	var out nodeapi.Links
	err := d.node.Call(ctx, "chain", nodeapi.Chain{After: after}, &out)
	return out.Links, out.Head, err
}

func probeIAM3(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	var info nodeapi.Info
	if err := w.Node.Call(ctx, "info", struct{}{}, &info); err != nil {
		return err
	}
	node, err := w.nodeKey()
	if err != nil {
		return err
	}
	keys, err := inspect.KeysOf(info.Envelope, node)
	if err != nil {
		return err
	}
	if err := w.entryOf(ctx, r, app, keys); err != nil {
		return err
	}
	seen, err := w.remembered(keys)
	if err != nil {
		return err
	}
	src := diskLog{inspect.Dir(filepath.Join(w.Installation.ServerDir(), "audit-log")), w.Node}
	copied := filepath.Join(w.Scratch, "log")
	now, err := inspect.Export(ctx, src, keys, info.Envelope, copied)
	if err != nil {
		return fmt.Errorf("the log cannot be copied: %w", err)
	}
	o := inspect.Options{Seen: []*inspect.Checkpoint{now}}
	if seen != nil {
		o.Seen = append(o.Seen, seen)
	}
	rep, err := inspect.Inspect(ctx, inspect.Dir(copied), keys, o)
	if err != nil {
		return err
	}
	// That the log holds is the promise itself.
	r.Refused("change the log that is on the disk", rep.Holds(), fmt.Sprintf("%d entries, %d accepted documents; %s", rep.Size, rep.Accepted, strings.Join(rep.Findings, "; ")))
	if !rep.Holds() {
		return nil
	}
	if err := atomicfile.Write(filepath.Join(w.dir, "audit-seen"), now.Note, 0o600); err != nil {
		return err
	}
	return tamper(ctx, r, copied, keys, o)
}

// nodeKey reads the node's public key where only root can write: from the certificate of the installation's own making it cannot come.
func (w *World) nodeKey() (statement.Key, error) {
	return publicOf(filepath.Join(w.Installation.NodeDir(), "keys", "node.pem"))
}

// remembered is the checkpoint that the prober saw last.
func (w *World) remembered(keys inspect.Keys) (*inspect.Checkpoint, error) {
	b, err := os.ReadFile(filepath.Join(w.dir, "audit-seen"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return inspect.OpenCheckpoint(b, keys)
}

// entryOf changes something, and finds the entries of it in the signed log.
func (w *World) entryOf(ctx context.Context, r *Record, app string, keys inspect.Keys) error {
	var random [6]byte
	rand.Read(random[:])
	name := "PROBE_" + strings.ToUpper(hex.EncodeToString(random[:]))
	for _, c := range [][]string{{"config", "set", name + "=1"}, {"config", "unset", name}, {"ps", "restart"}} {
		if _, err := w.Person.Do(ctx, append(c, "--app", app)...); err != nil {
			return err
		}
	}
	want := map[string]bool{"config.set": false, "app.restart": false}
	src := diskLog{inspect.Dir(filepath.Join(w.Installation.ServerDir(), "audit-log")), w.Node}
	began := time.Now()
	for {
		_, err := inspect.Inspect(ctx, src, keys, inspect.Options{Entry: func(_ uint64, e audit.Record) {
			if strings.Contains(e.Detail, name) || e.Action == "app.restart" && e.Resource == "app:"+app && e.Time.After(began.Add(-time.Minute)) {
				want[e.Action] = true
			}
		}})
		all := true
		for _, found := range want {
			all = all && found
		}
		if all || time.Since(began) > 20*time.Second {
			for action, found := range want {
				r.Refused("do "+action+" without an entry", found, "")
			}
			return err
		}
		if !pause(ctx, time.Second/2) {
			return ctx.Err()
		}
	}
}

// tamper changes a copy of the log in every way, and looks whether it is noticed.
func tamper(ctx context.Context, r *Record, dir string, keys inspect.Keys, o inspect.Options) error {
	notice := func(what string) {
		rep, err := inspect.Inspect(ctx, inspect.Dir(dir), keys, o)
		found := err != nil || !rep.Holds()
		detail := fmt.Sprint(err)
		if err == nil && found {
			detail = rep.Findings[0]
		}
		r.Proven("noticed: "+what, found, detail)
	}
	var entries, tile string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch rel, _ := filepath.Rel(dir, path); {
		case strings.HasPrefix(rel, "tile/entries/"):
			entries = path
		case strings.HasPrefix(rel, "tile/0/"):
			tile = path
		}
		return nil
	})
	if err != nil {
		return err
	}
	checkpoint, chain := filepath.Join(dir, "checkpoint"), filepath.Join(dir, "chain.jsonl")
	for _, t := range []struct {
		what, path string
		change     func([]byte) []byte
	}{
		{"an entry that was edited", entries, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"an entry that was dropped", entries, func(b []byte) []byte { return b[:len(b)-len(b)/3] }},
		{"a hash that was changed", tile, func(b []byte) []byte { b[0] ^= 1; return b }},
		{"a checkpoint of another key", checkpoint, resigned},
		{"a checkpoint with another size", checkpoint, func(b []byte) []byte { return bytes.Replace(b, []byte("\n"), []byte("\n1"), 1) }},
		{"a link of the node's chain that was dropped", chain, func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] }},
		{"two links that changed places", chain, swapped},
	} {
		b, err := os.ReadFile(t.path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(t.path, t.change(bytes.Clone(b)), 0o600); err != nil {
			return err
		}
		notice(t.what)
		if err := os.WriteFile(t.path, b, 0o600); err != nil {
			return err
		}
	}
	// The whole of it, put back to what it was: found by what was seen later.
	later := *o.Seen[0]
	later.Size++
	o.Seen = []*inspect.Checkpoint{&later}
	notice("an older state of the whole, by the checkpoint that was seen")
	return nil
}

// resigned is a checkpoint with the same text and a signature of the same name by another key.
func resigned(signed []byte) []byte {
	text, _, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok {
		return nil
	}
	name, _, _ := bytes.Cut(text, []byte("\n"))
	key, _, err := note.GenerateKey(rand.Reader, string(name))
	if err != nil {
		return nil
	}
	s, err := note.NewSigner(key)
	if err != nil {
		return nil
	}
	out, err := note.Sign(&note.Note{Text: string(text) + "\n"}, s)
	if err != nil {
		return nil
	}
	return out
}

func swapped(b []byte) []byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	if len(lines) > 2 {
		lines[0], lines[1] = lines[1], lines[0]
	}
	return bytes.Join(lines, nil)
}

// publicOf reads the public half of a key that is kept as PEM.
func publicOf(path string) (statement.Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return statement.Key{}, err
	}
	key, err := privateKey(b)
	if err != nil {
		return statement.Key{}, bulwark.Fail(bulwark.KindInternal, "The node's key cannot be read.", "", err)
	}
	return statement.NewKey(key.Public().(ed25519.PublicKey)), nil
}

package inspect_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api"
	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// bundles rewrites the leaves in the newest file of a bundle, and nothing else.
func (r *rig) bundles(index string, change func([][]byte) [][]byte) {
	r.t.Helper()
	var newest string
	var at time.Time
	must(r.t, filepath.WalkDir(filepath.Join(r.log(), "tile", "entries"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(p, index) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(at) {
			newest, at = p, info.ModTime()
		}
		return err
	}))
	b, err := os.ReadFile(newest)
	must(r.t, err)
	var e api.EntryBundle
	must(r.t, e.UnmarshalText(b))
	var out []byte
	for _, leaf := range change(e.Entries) {
		out = append(append(out, byte(len(leaf)>>8), byte(len(leaf))), leaf...)
	}
	must(r.t, os.WriteFile(newest, out, 0o600))
}

// rebuild makes the log anew from the store, as somebody does who wants another past; the node is asked to sign it.
func (r *rig) rebuild(change func(tx *sql.Tx) error) error {
	r.t.Helper()
	must(r.t, os.RemoveAll(r.log()))
	must(r.t, r.store.Tx(r.t.Context(), func(tx *sql.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE audit SET place = NULL`)
		return err
	}))
	return r.settle()
}

func sqlDo(q string) func(tx *sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(q)
		return err
	}
}

// Each change of the files is found, by a machine that never saw the log before too.
func TestTamperFiles(t *testing.T) {
	r := newRig(t)
	r.fill(300)
	r.tell(r.accept())
	must(t, r.settle())
	honest := r.inspect(inspect.Options{})
	holds(t, honest)
	restore := r.snapshot("server")
	for name, attack := range map[string]func(){
		"edit": func() {
			r.bundles("entries/000", func(l [][]byte) [][]byte {
				l[40] = bytes.Replace(l[40], []byte("app:shop"), []byte("app:shed"), 1)
				return l
			})
		},
		"edit of the last": func() {
			r.bundles("entries/001", func(l [][]byte) [][]byte {
				l[len(l)-1] = bytes.Replace(l[len(l)-1], []byte("192.0.2.1"), []byte("192.0.2.2"), 1)
				return l
			})
		},
		"delete":  func() { r.bundles("entries/000", func(l [][]byte) [][]byte { return slices.Delete(l, 40, 41) }) },
		"insert":  func() { r.bundles("entries/000", func(l [][]byte) [][]byte { return slices.Insert(l, 40, l[39]) }) },
		"reorder": func() { r.bundles("entries/000", func(l [][]byte) [][]byte { l[40], l[41] = l[41], l[40]; return l }) },
		"cut off": func() { r.bundles("entries/001", func(l [][]byte) [][]byte { return l[:len(l)-1] }) },
		"a file of entries gone": func() {
			must(t, os.RemoveAll(filepath.Join(r.log(), "tile", "entries", "001.p")))
		},
		"a file of entries that is none": func() {
			must(t, os.WriteFile(filepath.Join(r.log(), "tile", "entries", "000"), []byte("\xff\xff"), 0o600))
		},
		"a hash": func() {
			p := filepath.Join(r.log(), "tile", "0", "000")
			b, err := os.ReadFile(p)
			must(t, err)
			b[3333] ^= 1
			must(t, os.WriteFile(p, b, 0o600))
		},
		"a file of hashes gone": func() { must(t, os.Remove(filepath.Join(r.log(), "tile", "0", "000"))) },
		"the checkpoint": func() {
			p := filepath.Join(r.log(), "checkpoint")
			b, err := os.ReadFile(p)
			must(t, err)
			must(t, os.WriteFile(p, bytes.Replace(b, []byte("\n302\n"), []byte("\n301\n"), 1), 0o600))
		},
		"a checkpoint of the server's own key": func() { r.resign(302, honest.Checkpoint.Root) },
	} {
		attack()
		if report := r.inspect(inspect.Options{}); report.Holds() {
			t.Errorf("%s: nothing was found", name)
		} else {
			t.Logf("%s: %s", name, report.Findings[0])
		}
		restore()
		holds(t, r.inspect(inspect.Options{}))
	}
}

// resign signs a state of the log with a key of the server's.
func (r *rig) resign(size uint64, root []byte) {
	r.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(r.t, err)
	_, verifier, err := statement.LogSigner(key)
	must(r.t, err)
	// With the name of the true one: names are free.
	v, err := note.NewVerifier(r.book.LogKey())
	must(r.t, err)
	skey, _, err := note.GenerateKey(rand.Reader, v.Name())
	must(r.t, err)
	s, err := note.NewSigner(skey)
	must(r.t, err)
	b, err := note.Sign(&note.Note{Text: statement.CheckpointText(v.Name(), size, root)}, s)
	must(r.t, err)
	must(r.t, os.WriteFile(filepath.Join(r.log(), "checkpoint"), b, 0o600))
	if _, err := inspect.OpenCheckpoint(b, inspect.Keys{Node: r.keys().Node, Log: verifier}); err == nil {
		r.t.Error("the key of another node is taken")
	}
}

// A past that is made anew, with whole and right files, is not signed by the node.
func TestTamperRebuilt(t *testing.T) {
	r := newRig(t)
	r.fill(300)
	r.tell(r.accept())
	must(t, r.settle())
	o := remember(r.inspect(inspect.Options{}))
	restore := r.snapshot("server")
	for name, change := range map[string]func(tx *sql.Tx) error{
		"edit":   sqlDo(`UPDATE audit SET resource = 'app:shed' WHERE seq = 40`),
		"delete": sqlDo(`DELETE FROM audit WHERE seq = 40`),
		"delete, renumber": func(tx *sql.Tx) error {
			return errors.Join(sqlDo(`DELETE FROM audit WHERE seq = 40`)(tx), sqlDo(`UPDATE audit SET seq = -seq WHERE seq > 40`)(tx), sqlDo(`UPDATE audit SET seq = -seq - 1 WHERE seq < 0`)(tx))
		},
		"truncate": sqlDo(`DELETE FROM audit WHERE seq > 200`),
		"reorder": func(tx *sql.Tx) error {
			return errors.Join(sqlDo(`UPDATE audit SET seq = -40 WHERE seq = 40`)(tx), sqlDo(`UPDATE audit SET seq = 40 WHERE seq = 41`)(tx), sqlDo(`UPDATE audit SET seq = 41 WHERE seq = -40`)(tx))
		},
	} {
		err := r.rebuild(change)
		if err == nil {
			t.Errorf("%s: the node signed it", name)
		}
		// What the server can still do is to serve the old checkpoint, or none, with the new files.
		report, ierr := inspect.Inspect(t.Context(), r.source(), r.keys(), o)
		if ierr == nil && report.Holds() {
			t.Errorf("%s: nothing was found", name)
		}
		t.Logf("%s: %v", name, err)
		// And more entries on top do not help.
		r.fill(400)
		if err := r.settle(); err == nil {
			t.Errorf("%s: the node signed it when it had grown", name)
		}
		restore()
	}
}

// An older copy of the server's folder: the node does not sign it on, and a machine that saw the newer one says so.
func TestTamperRolledBack(t *testing.T) {
	r := newRig(t)
	r.fill(10)
	must(t, r.settle())
	restore := r.snapshot("server")
	r.fill(10)
	r.tell(r.accept())
	must(t, r.settle())
	o := remember(r.inspect(inspect.Options{}))
	restore()
	if report := r.inspect(o); report.Holds() {
		t.Error("a machine that saw more found nothing")
	}
	r.clock = func() time.Time { return time.Now().Add(time.Hour) }
	if report := r.inspect(inspect.Options{}); report.Holds() {
		t.Error("a machine that saw nothing found nothing, although the node accepted more")
	}
	r.fill(3)
	if err := r.settle(); err == nil {
		t.Error("the node signed a log that is shorter")
	}
	r.fill(30)
	if err := r.settle(); err == nil {
		t.Error("the node signed a fork")
	}
}

// The whole disk rolled back, the node's ledger with it: only who saw the newer state can know.
func TestTamperWholeDisk(t *testing.T) {
	r := newRig(t)
	r.fill(10)
	must(t, r.settle())
	server, node := r.snapshot("server"), r.snapshot("node")
	r.fill(10)
	r.tell(r.accept())
	must(t, r.settle())
	o := remember(r.inspect(inspect.Options{}))
	server()
	node()
	holds(t, r.inspect(inspect.Options{})) // there is nothing to find for a stranger
	report := r.inspect(o)
	if len(report.Findings) < 2 {
		t.Errorf("found was %q", report.Findings)
	}
	// Grown beyond what was seen: a fork that the node signed in good faith.
	r.fill(50)
	must(t, r.settle())
	holds(t, r.inspect(inspect.Options{}))
	if report := r.inspect(inspect.Options{Seen: o.Seen}); report.Holds() {
		t.Error("the remembered checkpoint found nothing")
	}
	if report := r.inspect(o); report.Holds() {
		t.Error("what was checked before found nothing")
	}
	now, err := inspect.OpenCheckpoint(report.Checkpoint.Note, r.keys())
	must(t, err)
	if err := inspect.Follows(o.Seen[0], now, nil); err == nil {
		t.Error("a command that only looks at checkpoints found nothing")
	}
	grown := r.inspect(inspect.Options{}).Checkpoint
	if err := inspect.Follows(o.Seen[0], grown, func(from, to uint64) ([][]byte, error) { return r.source().Consistency(t.Context(), from, to) }); err == nil {
		t.Error("a command that asks for a proof found nothing")
	}
}

// What a server that is owned writes into new entries is held against what the node accepted.
func TestTamperNewEntries(t *testing.T) {
	hour := func(r *rig) { r.clock = func() time.Time { return time.Now().Add(time.Hour) } }
	for name, attack := range map[string]func(r *rig){
		"left out":       func(r *rig) { r.accept(); hour(r) },
		"another person": func(r *rig) { e := entryOf(r.accept()); e.Actor = "p_00000000000000000000000008"; r.write(e) },
		"another key":    func(r *rig) { e := entryOf(r.accept()); e.Key = "SHA256:another"; r.write(e) },
		"another action": func(r *rig) { e := entryOf(r.accept()); e.Action = "app.destroy"; r.write(e) },
		"another document": func(r *rig) {
			e := entryOf(r.accept())
			e.Document = "sha256:" + "00000000000000000000000000000000000000000000000000000000000000aa"
			r.write(e)
		},
		"another hash": func(r *rig) { e := entryOf(r.accept()); e.Chain.Hash = e.Document; r.write(e) },
		"twice": func(r *rig) {
			r.tell(r.accept())
			// Our own code does not write a second one.
			must(r.t, r.store.Tx(r.t.Context(), sqlDo(`DROP INDEX audit_chain_seq`)))
			must(r.t, r.store.Tx(r.t.Context(), sqlDo(`INSERT INTO audit (at, project, actor, key, origin, action, resource, outcome, detail, document, chain_seq, chain_hash)
				SELECT at, project, actor, key, origin, action, resource, outcome, detail, document, chain_seq, chain_hash FROM audit ORDER BY seq DESC LIMIT 1`)))
		},
		"invented": func(r *rig) { e := entryOf(r.accept()); r.write(e); e.Chain.Seq++; r.write(e) },
		"a refusal in place of what was done": func(r *rig) {
			e := entryOf(r.accept())
			e.Outcome, e.Chain = audit.Refused, nil
			r.write(e)
			hour(r)
		},
		"much later": func(r *rig) {
			first := r.accept()
			hour(r)
			r.write(entryOf(r.accept()), entryOf(first))
		},
		"a number left out": func(r *rig) {
			r.fill(3)
			must(r.t, r.store.Tx(r.t.Context(), sqlDo(`DELETE FROM audit WHERE seq = 3`)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			attack(r)
			must(t, r.settle())
			if report := r.inspect(inspect.Options{}); report.Holds() {
				t.Error("nothing was found")
			} else {
				t.Log(report.Findings)
			}
		})
	}
}

package source_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/source"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// store is what the tests of uploads share: uploads with an app, whose operations never begin.
type store struct {
	*source.Uploads
	app *app.App
	now time.Time
}

func newStore(t *testing.T) *store {
	t.Helper()
	dir := t.TempDir()
	var all []db.Migration
	for _, m := range [][]db.Migration{audit.Migrations(), job.Migrations(), app.Migrations(), source.Migrations()} {
		all = append(all, m...)
	}
	d, err := db.Open(t.Context(), filepath.Join(dir, "db"), all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	log := slog.New(slog.DiscardHandler)
	jobs, err := job.New(d, filepath.Join(dir, "operations"), log, func(context.Context, job.Operation, *job.Log) (*client.Done, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	s := &store{app: &app.App{ID: bulwark.NewAppID(), Project: bulwark.NewProjectID(), Name: "shop", Created: time.Now()}, now: time.Now()}
	s.Uploads = &source.Uploads{DB: d, Jobs: jobs, Dir: filepath.Join(dir, "uploads"), Log: log, Now: func() time.Time { return s.now }}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	if err := d.Tx(t.Context(), func(tx *sql.Tx) error { return app.Insert(tx, *s.app) }); err != nil {
		t.Fatal(err)
	}
	return s
}

// deploy enqueues what a statement about an upload leads to.
func (s *store) deploy(t *testing.T, d statement.Deploy, cause string) bulwark.OperationID {
	t.Helper()
	body, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var id bulwark.OperationID
	err = s.DB.Tx(t.Context(), func(tx *sql.Tx) (err error) {
		id, err = s.Enqueue(t.Context(), tx, s.app, &nodeapi.Receipt{Digest: bulwark.Sum([]byte(cause)), Person: bulwark.NewPersonID(), Body: body})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s *store) files(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// folder is a tree as it is sent.
func folder(t *testing.T) (statement.TreeDigest, []byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := tree.Measure(dir, []string{"main.go"}, tree.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return m.Digest, b.Bytes()
}

func TestReceive(t *testing.T) {
	s := newStore(t)
	d, stream := folder(t)
	archive := []byte("some archive")
	for name, c := range map[string]struct {
		source string
		body   []byte
		kind   bulwark.Kind
	}{
		"no digest":         {"x", archive, bulwark.KindInvalid},
		"path":              {"tree1:../../" + strings.Repeat("0", 58), archive, bulwark.KindInvalid},
		"another tree":      {"tree1:" + strings.Repeat("0", 64), stream, bulwark.KindInvalid},
		"no tree":           {string(d), archive, bulwark.KindInvalid},
		"a tree cut off":    {string(d), stream[:515], bulwark.KindInvalid},
		"another archive":   {string(bulwark.Sum(nil)), archive, bulwark.KindInvalid},
		"the tree's stream": {"sha256:" + d.Hex(), stream, bulwark.KindInvalid},
	} {
		if err := s.Receive(t.Context(), s.app, c.source, bytes.NewReader(c.body)); bulwark.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	lost := bulwark.Failf(bulwark.KindUnavailable, "The upload was cut off.")
	if err := s.Receive(t.Context(), s.app, string(d), io.MultiReader(bytes.NewReader(stream[:700]), broken{lost})); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("cut off: %v", err)
	}
	if n := s.files(t); n != 0 {
		t.Errorf("%d files of uploads that were refused are left", n)
	}
	for _, c := range []struct {
		source string
		body   []byte
	}{{string(d), stream}, {string(bulwark.Sum(archive)), archive}, {string(d), stream}} {
		if err := s.Receive(t.Context(), s.app, c.source, bytes.NewReader(c.body)); err != nil || !s.Has(s.app, c.source) {
			t.Errorf("%s: %v", c.source, err)
		}
	}
	if other := *s.app; s.files(t) != 2 || s.Has(&app.App{ID: bulwark.NewAppID()}, string(d)) || !s.Has(&other, string(d)) {
		t.Error("an upload is another app's too")
	}
}

type broken struct{ err error }

// Read implements [io.Reader].
func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestEnqueueIsDoneOnce(t *testing.T) {
	s := newStore(t)
	d, _ := folder(t)
	first := s.deploy(t, statement.Deploy{Tree: d, Message: "hello"}, "one")
	if again := s.deploy(t, statement.Deploy{Tree: d, Message: "hello"}, "one"); again != first {
		t.Error("the same statement made a second operation")
	}
	op, err := s.Jobs.Get(t.Context(), s.app.ID, first)
	if err != nil || op.Kind != "deploy" || op.Note != "folder "+d.Hex()[:8]+" hello" || op.State != job.Waiting {
		t.Errorf("%+v, %v", op, err)
	}
	var entries int
	if err := s.DB.Reader().QueryRow(`SELECT count(*) FROM audit WHERE action = 'app.deploy' AND detail = ?`, d).Scan(&entries); err != nil || entries != 1 {
		t.Errorf("%d audit entries, %v", entries, err)
	}
	if _, err := s.Source(t.Context(), bulwark.Sum([]byte("nobody's"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a push: %v", err)
	}
}

func TestDone(t *testing.T) {
	s := newStore(t)
	d, stream := folder(t)
	if err := s.Receive(t.Context(), s.app, string(d), bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	s.deploy(t, statement.Deploy{Tree: d}, "one") // a newer one takes its place
	s.deploy(t, statement.Deploy{Tree: d}, "two")
	one, two := bulwark.Sum([]byte("one")), bulwark.Sum([]byte("two"))
	if err := s.Done(t.Context(), one); err != nil || s.files(t) != 1 {
		t.Errorf("an upload that is needed went: %v", err)
	}
	r, err := s.Source(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, stream) {
		t.Errorf("another source: %v", err)
	}
	if err := s.Done(t.Context(), two); err != nil || s.files(t) != 0 {
		t.Errorf("an upload that nobody needs stays: %v", err)
	}
	if err := s.Done(t.Context(), two); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := s.Done(t.Context(), bulwark.Sum([]byte("a push"))); err != nil {
		t.Errorf("of a push: %v", err)
	}
}

func TestClean(t *testing.T) {
	s := newStore(t)
	d, stream := folder(t)
	archive := []byte("archive")
	for source, body := range map[string][]byte{string(d): stream, string(bulwark.Sum(archive)): archive} {
		if err := s.Receive(t.Context(), s.app, source, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, string(s.app.ID)+".incoming-1"), nil, 0o600); err != nil { // of a process that was killed
		t.Fatal(err)
	}
	s.deploy(t, statement.Deploy{Tree: d}, "one")
	for _, c := range []struct {
		after time.Duration
		left  int
	}{{0, 3}, {59 * time.Minute, 3}, {61 * time.Minute, 1}} {
		s.now = time.Now().Add(c.after)
		if err := s.Clean(t.Context()); err != nil || s.files(t) != c.left {
			t.Errorf("after %v there are %d files, not %d: %v", c.after, s.files(t), c.left, err)
		}
	}
	if !s.Has(s.app, string(d)) {
		t.Error("the upload of an operation that waits went")
	}
	if _, err := s.Jobs.Cancel(t.Context(), s.app.ID, "deploy", nil); err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(2 * time.Hour)
	if err := s.Clean(t.Context()); err != nil || s.files(t) != 0 {
		t.Errorf("%d files stay: %v", s.files(t), err)
	}
}

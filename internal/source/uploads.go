package source

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Uploads keeps what "bulwark deploy" sends, a folder or an image archive, until it is built. An upload is stored under
// its digest only if it has that digest. Nothing becomes of it by itself: a statement that a person signed and the node
// accepted names it, and the node measures it again. One that nobody needs goes after an hour.
type Uploads struct {
	DB   *db.DB
	Jobs *job.Engine
	Dir  string
	Log  *slog.Logger
	Now  func() time.Time // nil means time.Now

	slots chan struct{}
}

const (
	uploadLife    = time.Hour    // of one that nobody needs
	uploadsPerApp = 4 << 30      // bytes that wait
	uploadsAtOnce = 4            // that come in
	incomingFile  = ".incoming-" // begins the name of one that is not whole
	cleanEvery    = uploadLife / 12
)

var deployTable = db.Migration{ID: "source-2", SQL: `
CREATE TABLE deploy (
	cause     TEXT PRIMARY KEY,
	project   TEXT NOT NULL,
	app       TEXT NOT NULL REFERENCES app (id),
	upload    TEXT NOT NULL,
	operation TEXT NOT NULL
) STRICT;
CREATE INDEX deploy_upload ON deploy (app, upload)`}

// Open makes the folder.
func (u *Uploads) Open() error {
	u.slots = make(chan struct{}, uploadsAtOnce)
	if u.Now == nil {
		u.Now = time.Now
	}
	return os.MkdirAll(u.Dir, 0o700)
}

// path is where an upload of an app lies. A source is a digest that was parsed, of a tree or of an archive.
func (u *Uploads) path(id bulwark.AppID, source string) string {
	return filepath.Join(u.Dir, string(id)+"."+strings.Replace(source, ":", ".", 1))
}

// Receive stores an upload. source is what it is said to be.
func (u *Uploads) Receive(ctx context.Context, a *app.App, source string, body io.Reader) error {
	measure, err := measurer(source)
	if err != nil {
		return err
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	default:
		return bulwark.Fail(bulwark.KindBusy, "Too many uploads come in at once.", "Try again in a minute.", nil)
	}
	if err := u.room(a); err != nil {
		return err
	}
	f, err := os.CreateTemp(u.Dir, string(a.ID)+incomingFile)
	if err != nil {
		return unstored(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	got, err := measure(io.TeeReader(body, storing{f}))
	if err != nil {
		return err
	}
	if got != source {
		return bulwark.Fail(bulwark.KindInvalid, "The upload is not what it is said to be: it was damaged on its way.", "Run the command again.",
			fmt.Errorf("said: %s, received: %s", source, got))
	}
	if err := f.Sync(); err != nil {
		return unstored(err)
	}
	return os.Rename(f.Name(), u.path(a.ID, source))
}

// measurer returns what finds out the digest of an upload, reading it to its end.
func measurer(source string) (func(io.Reader) (string, error), error) {
	if _, err := bulwark.ParseDigest(source); err == nil {
		return func(r io.Reader) (string, error) {
			h := sha256.New()
			_, err := io.Copy(h, r)
			return fmt.Sprintf("sha256:%x", h.Sum(nil)), err
		}, nil
	}
	if _, err := statement.ParseTreeDigest(source); err != nil {
		return nil, err
	}
	return func(r io.Reader) (string, error) {
		d, err := tree.Check(r, tree.DefaultLimits)
		return string(d), err
	}, nil
}

// storing writes a copy; why it cannot is told to the sender.
type storing struct{ f *os.File }

// Write implements [io.Writer].
func (s storing) Write(b []byte) (int, error) {
	n, err := s.f.Write(b)
	if err != nil {
		err = unstored(err)
	}
	return n, err
}

func unstored(err error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The upload cannot be stored, so nothing was changed.", "Check that the disk of the machine is not full and try again.", err)
}

// room keeps one app's uploads from filling the disk.
func (u *Uploads) room(a *app.App) error {
	all, err := os.ReadDir(u.Dir)
	if err != nil {
		return unstored(err)
	}
	total := int64(0)
	for _, e := range all {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), string(a.ID)) {
			total += info.Size()
		}
	}
	if total > uploadsPerApp-tree.MaxArchive {
		return bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("Too much that was uploaded for %s waits.", a.Name), "Wait until what is under way has ended; what nobody needs goes after an hour.", nil)
	}
	return nil
}

// Has tells whether an upload is here, and keeps it for another hour.
func (u *Uploads) Has(a *app.App, source string) bool {
	now := u.Now()
	return os.Chtimes(u.path(a.ID, source), now, now) == nil
}

// Enqueue stores what was signed for and the operation, with its audit entry, in the caller's transaction. The same
// statement gets the same operation again.
func (u *Uploads) Enqueue(ctx context.Context, tx *sql.Tx, a *app.App, receipt *nodeapi.Receipt) (id bulwark.OperationID, err error) {
	var d statement.Deploy
	if err := json.Unmarshal(receipt.Body, &d); err != nil {
		return "", err
	}
	err = tx.QueryRow(`SELECT operation FROM deploy WHERE cause = ?`, receipt.Digest).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	id = bulwark.NewOperationID()
	if _, err := tx.Exec(`INSERT INTO deploy (cause, project, app, upload, operation) VALUES (?,?,?,?,?)`,
		receipt.Digest, a.Project, a.ID, d.Source(), id); err != nil {
		return "", err
	}
	if err := audit.Write(ctx, tx, deployed(a, *receipt, d.Source())); err != nil {
		return "", err
	}
	return id, job.Enqueue(tx, job.Operation{ID: id, Project: a.Project, App: a.ID, Kind: "deploy", Cause: receipt.Digest, Person: receipt.Person,
		Note: strings.TrimSpace(short(d) + " " + d.Message)})
}

// short names what is deployed for people.
func short(d statement.Deploy) string {
	if d.Image != "" {
		return "image " + d.Image.Hex()[:8]
	}
	return "folder " + d.Tree.Hex()[:8]
}

// Source opens what a deploy is made of. The error is os.ErrNotExist if there is none (any more).
func (u *Uploads) Source(ctx context.Context, cause bulwark.Digest) (io.ReadCloser, error) {
	a, source, err := u.find(ctx, cause)
	if err != nil {
		return nil, err
	}
	return os.Open(u.path(a, source))
}

func (u *Uploads) find(ctx context.Context, cause bulwark.Digest) (a bulwark.AppID, source string, err error) {
	err = u.DB.Reader().QueryRowContext(ctx, `SELECT app, upload FROM deploy WHERE cause = ?`, cause).Scan(&a, &source)
	if errors.Is(err, sql.ErrNoRows) {
		err = os.ErrNotExist
	}
	return a, source, err
}

// Done lets go of what a deploy was made of, after its build; another deploy that waits for the same keeps it.
func (u *Uploads) Done(ctx context.Context, cause bulwark.Digest) error {
	a, source, err := u.find(ctx, cause)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a push
	}
	if err != nil {
		return err
	}
	if used, err := u.used(ctx, a, source, cause); err != nil || used {
		return err
	}
	if err := os.Remove(u.path(a, source)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// used tells whether a deploy other than except still needs an upload.
func (u *Uploads) used(ctx context.Context, a bulwark.AppID, source string, except bulwark.Digest) (bool, error) {
	rows, err := u.DB.Reader().QueryContext(ctx, `SELECT operation FROM deploy WHERE app = ? AND upload = ? AND cause <> ?`, a, source, except)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		var id bulwark.OperationID
		if err := rows.Scan(&id); err != nil {
			return false, err
		}
		op, err := u.Jobs.Get(ctx, a, id)
		if err != nil {
			return false, err
		}
		if !op.Over() {
			return true, nil
		}
	}
	return false, rows.Err()
}

// Run cleans up until ctx ends.
func (u *Uploads) Run(ctx context.Context) {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		if err := u.Clean(ctx); err != nil && ctx.Err() == nil {
			u.Log.Warn("uploads cannot be cleaned up", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Clean removes what nobody has needed for an hour.
func (u *Uploads) Clean(ctx context.Context) error {
	all, err := os.ReadDir(u.Dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		info, err := e.Info()
		if err != nil || u.Now().Sub(info.ModTime()).Abs() < uploadLife { // the clock may have been turned back
			continue
		}
		a, rest, _ := strings.Cut(e.Name(), ".")
		if used, err := u.used(ctx, bulwark.AppID(a), strings.Replace(rest, ".", ":", 1), ""); err != nil || used {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Remove(filepath.Join(u.Dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

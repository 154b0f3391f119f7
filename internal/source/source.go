// Package source is the first step of the pipeline: a push over SSH. It asks whether the person may, has the node verify
// what the person signed, stores the source, and enqueues the deploy in one transaction with its audit entry.
//
// Whoever owns the server can refuse or delay a push and read the code; the node builds nothing but the commit that a
// person signed for.
package source

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
)

// Branch is the one that deploys.
const Branch = "main"

// Gate implements [gitssh.Gate].
type Gate struct {
	// Decide is the one decision function.
	Decide func(context.Context, access.Actor, access.Action, access.Resource) error
	DB     *db.DB
	Node   *nodeapi.Client
	Jobs   *job.Engine
	Dir    string // packs of sources that wait for their build
	Log    *slog.Logger
	// Refused writes an entry about what was refused.
	Refused func(context.Context, audit.Entry) error

	mu   sync.Mutex // guards live
	live map[bulwark.OperationID]bool
}

// Live tells whether a push waits for an operation: git moves the branch itself then. Of an operation that went on after
// a restart nobody waits.
func (g *Gate) Live(op bulwark.OperationID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.live[op]
}

// attend notes that a push waits for an operation, until end is called.
func (g *Gate) attend(op bulwark.OperationID) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live == nil {
		g.live = map[bulwark.OperationID]bool{}
	}
	g.live[op] = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.live, op)
	}
}

// Commit returns the commit of a pushed source, "" if it was not pushed.
func (g *Gate) Commit(ctx context.Context, cause bulwark.Digest) (c bulwark.Commit, err error) {
	err = g.DB.Reader().QueryRowContext(ctx, `SELECT commit_id FROM source WHERE cause = ?`, cause).Scan(&c)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return c, err
}

// Tidy removes what a crash left: sources that were not received whole, and those of operations that have ended.
func (g *Gate) Tidy(ctx context.Context) error {
	entries, err := os.ReadDir(g.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if cause, ok := strings.CutSuffix(e.Name(), ".pack"); ok {
			var open int
			if err := g.DB.Reader().QueryRowContext(ctx, `SELECT count(*) FROM operation WHERE cause = ? AND state IN (?, ?)`,
				"sha256:"+cause, job.Waiting, job.Running).Scan(&open); err != nil {
				return err
			}
			if open > 0 {
				continue
			}
		} else if !strings.HasPrefix(e.Name(), "incoming-") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(g.Dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "source-1", SQL: `
CREATE TABLE source (
	cause   TEXT PRIMARY KEY,
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	commit_id TEXT NOT NULL,
	subject TEXT NOT NULL,
	operation TEXT NOT NULL
) STRICT`}, deployTable}
}

// Person implements [gitssh.Gate]: the node's ledger knows the keys.
func (g *Gate) Person(ctx context.Context, key ssh.PublicKey) (bulwark.PersonID, error) {
	var out nodeapi.KeyOwner
	err := g.Node.Call(ctx, "keyowner", nodeapi.KeyOwner{Kind: "ssh", Fingerprint: ssh.FingerprintSHA256(key)}, &out)
	if bulwark.KindOf(err) == bulwark.KindForbidden {
		return "", bulwark.Fail(bulwark.KindUnauthorized, "This SSH key is not registered.", "Register it with bulwark keys add.", nil)
	}
	return out.Person, err
}

// Begin implements [gitssh.Gate].
func (g *Gate) Begin(ctx context.Context, person bulwark.PersonID, name bulwark.AppName) (gitssh.Session, error) {
	k := nodeapi.KeyOwner{Kind: "person", Fingerprint: string(person)}
	if err := g.Node.Call(ctx, "keyowner", k, &k); err != nil {
		return gitssh.Session{}, err
	}
	actor := access.Actor{Person: person, Grants: k.Grants}
	if err := g.Decide(ctx, actor, access.Deploy, access.App(name)); err != nil {
		return gitssh.Session{}, g.refused(ctx, person, name, "", err)
	}
	a, err := app.ByName(ctx, g.DB.Reader(), actor.Tenant(), name)
	if err != nil {
		return gitssh.Session{}, err
	}
	var nonce nodeapi.Nonce
	if err := g.Node.Call(ctx, "nonce", nodeapi.Push{App: a.ID}, &nonce); err != nil {
		return gitssh.Session{}, err
	}
	return gitssh.Session{App: a.ID, Branch: Branch, NonceSeed: nonce.Seed}, nil
}

// Path is where the pack of a source waits.
func (g *Gate) Path(cause bulwark.Digest) string { return filepath.Join(g.Dir, cause.Hex()+".pack") }

// Receive implements [gitssh.Gate]: it returns when the deploy has ended.
func (g *Gate) Receive(ctx context.Context, p gitssh.Push, progress io.Writer) error {
	ctx = audit.WithOrigin(ctx, &audit.Origin{From: p.From})
	var receipt nodeapi.Receipt
	if err := g.Node.Call(ctx, "push", nodeapi.Push{App: p.App, Certificate: p.Certificate}, &receipt); err != nil {
		return g.refused(ctx, p.Person, p.AppName, bulwark.Sum(p.Certificate), err)
	}
	if err := g.keep(ctx, p, receipt.Digest); err != nil {
		return err
	}
	op := bulwark.NewOperationID()
	defer g.attend(op)()
	if err := g.enqueue(ctx, op, p, receipt); err != nil {
		return err
	}
	g.Jobs.Wake()
	var failure error
	err := g.Jobs.Watch(ctx, p.App, op, func(e client.Event) error {
		switch {
		case e.Log != "":
			fmt.Fprintln(progress, e.Log)
		case e.Error != nil:
			failure = e.Error
		case e.Done != nil && e.Done.Waiting:
			fmt.Fprintf(progress, "-----> %s\n       %s\n", e.Done.Message, e.Done.Image)
		case e.Done != nil:
			fmt.Fprintf(progress, "-----> Released v%d\n       %s\n       %s\n", e.Done.Release, e.Done.Image, e.Done.URL)
		}
		return nil
	})
	return errors.Join(err, failure)
}

// refused records that a push was refused, and passes the reason on.
func (g *Gate) refused(ctx context.Context, person bulwark.PersonID, name bulwark.AppName, document bulwark.Digest, err error) error {
	e := audit.Entry{Actor: person, Action: string(access.Deploy), Resource: access.App(name).String(), Outcome: audit.Refused, Document: document}
	switch b, ok := errors.AsType[*bulwark.Error](err); {
	case !ok || b.Kind == bulwark.KindUnavailable || b.Kind == bulwark.KindInternal:
		e.Outcome = audit.Failed
	default:
		e.Detail = "push: " + b.Message
	}
	if rerr := g.Refused(context.WithoutCancel(ctx), e); rerr != nil {
		g.Log.Error("the audit log did not take a refusal", "error", rerr)
	}
	return err
}

// keep stores the pack until the build is over, so that a deploy goes on after a restart.
func (g *Gate) keep(ctx context.Context, p gitssh.Push, cause bulwark.Digest) error {
	pack, err := p.Pack(ctx)
	if err != nil {
		return err
	}
	defer pack.Close()
	f, err := os.CreateTemp(g.Dir, "incoming-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.Copy(f, pack); err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "The source cannot be stored, so nothing was changed.", "Check that the disk is not full and push again.", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), g.Path(cause))
}

// deployed is the audit entry of a deploy that the node accepted.
func deployed(a *app.App, r nodeapi.Receipt, source string) audit.Entry {
	e := audit.Entry{Project: a.Project, Actor: r.Person, Key: r.Key, Action: string(access.Deploy), Resource: access.App(a.Name).String(),
		Outcome: audit.Accepted, Detail: source, Document: r.Digest}
	if r.Chain != nil {
		p := audit.Place(*r.Chain)
		e.Chain = &p
	}
	return e
}

// enqueue stores the commit and the operation with its audit entry.
func (g *Gate) enqueue(ctx context.Context, id bulwark.OperationID, p gitssh.Push, receipt nodeapi.Receipt) error {
	return g.DB.Tx(ctx, func(tx *sql.Tx) error {
		a, err := app.ByID(ctx, tx, p.App)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO source (cause, project, app, commit_id, subject, operation) VALUES (?,?,?,?,?,?)`,
			receipt.Digest, a.Project, a.ID, p.New, p.Message, id); err != nil {
			return err
		}
		if err := audit.Write(ctx, tx, deployed(a, receipt, string(p.New))); err != nil {
			return err
		}
		return job.Enqueue(tx, job.Operation{ID: id, Project: a.Project, App: a.ID, Kind: "deploy", Cause: receipt.Digest, Person: receipt.Person,
			Note: strings.TrimSpace(p.New.Short() + " " + p.Message)})
	})
}

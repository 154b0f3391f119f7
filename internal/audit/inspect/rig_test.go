package inspect_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/audit/translog"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// rig is an installation's part that the log is about, with real files: the server's store and log, and the node's ledger.
type rig struct {
	t      *testing.T
	dir    string // server/ and node/ are below it
	key    ed25519.PrivateKey
	device ed25519.PrivateKey
	clock  func() time.Time
	store  *db.DB
	book   *ledger.Ledger
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), clock: time.Now}
	var err error
	_, r.key, err = ed25519.GenerateKey(rand.Reader)
	must(t, err)
	_, r.device, err = ed25519.GenerateKey(rand.Reader)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(r.dir, "server"), 0o700))
	must(t, os.MkdirAll(filepath.Join(r.dir, "node"), 0o700))
	r.open()
	t.Cleanup(func() { r.close() })
	r.enrol()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.store, err = db.Open(context.Background(), filepath.Join(r.dir, "server", "bulwark.db"), audit.Migrations())
	must(r.t, err)
	spare, err := age.GenerateHybridIdentity()
	must(r.t, err)
	r.book, err = ledger.Open(context.Background(), ledger.Config{Path: filepath.Join(r.dir, "node", "ledger.db"), Key: r.key, Domain: "apps.example.org",
		Keys: projectkeys.Open(filepath.Join(r.dir, "node"), spare.Recipient()), Now: func() time.Time { return r.clock() }})
	must(r.t, err)
}

func (r *rig) close() {
	r.store.Close()
	r.book.Close()
}

func (r *rig) log() string { return filepath.Join(r.dir, "server", "audit-log") }

// Checkpoint implements [translog.Node].
func (r *rig) Checkpoint(ctx context.Context, size uint64, root []byte, consistency [][]byte) ([]byte, error) {
	return r.book.Checkpoint(ctx, size, root, consistency)
}

// Checkpointed implements [translog.Node].
func (r *rig) Checkpointed(ctx context.Context) (uint64, string, error) {
	size, _, err := r.book.Checkpointed(ctx)
	return size, r.book.LogKey(), err
}

// enrol makes the one person of the rig.
func (r *rig) enrol() {
	r.t.Helper()
	secret := []byte(rand.Text())
	must(r.t, r.book.AddToken(r.t.Context(), secret))
	der := statement.NewKey(r.device.Public().(ed25519.PublicKey)).PKIX()
	got, err := r.book.Enroll(r.t.Context(), r.sign(statement.KindEnroll, "", statement.Enroll{Name: "Ana", Device: der, Proof: enrol.Proof(secret, der)}))
	must(r.t, err)
	r.tell(got)
}

func (r *rig) sign(kind statement.Kind, app bulwark.AppID, body any) []byte {
	r.t.Helper()
	s, err := statement.New(r.book.Node(), kind, app, body, r.clock())
	must(r.t, err)
	env, err := statement.Seal(statement.PayloadType, s, r.device)
	must(r.t, err)
	return env
}

// accept has the node accept a document.
func (r *rig) accept() *ledger.Receipt {
	r.t.Helper()
	got, err := r.book.Submit(r.t.Context(), r.sign(statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: bulwark.AppName("a" + strings.ToLower(rand.Text()[:12]))}))
	must(r.t, err)
	return got
}

func entryOf(got *ledger.Receipt) audit.Entry {
	p := audit.Place(*got.Chain)
	return audit.Entry{Actor: got.Person, Key: got.Key, From: "192.0.2.1", Action: string(got.Kind), Resource: "platform", Outcome: audit.Done, Document: got.Digest, Chain: &p}
}

// tell writes the entry of an accepted document.
func (r *rig) tell(got *ledger.Receipt) {
	r.t.Helper()
	r.write(entryOf(got))
}

func (r *rig) write(all ...audit.Entry) {
	r.t.Helper()
	r.writeIn(r.t.Context(), all)
}

func (r *rig) writeIn(ctx context.Context, all []audit.Entry) {
	must(r.t, r.store.Tx(ctx, func(tx *sql.Tx) error {
		for _, e := range all {
			if err := audit.Write(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	}))
}

// fill writes entries that nobody signs.
func (r *rig) fill(n int) {
	r.t.Helper()
	r.fillIn(r.t.Context(), n)
}

func (r *rig) fillIn(ctx context.Context, n int) {
	var all []audit.Entry
	for i := range n {
		all = append(all, audit.Entry{Action: "app.restart", Resource: "app:shop", Outcome: audit.Accepted, Detail: fmt.Sprint(i)})
	}
	r.writeIn(ctx, all)
}

// discard is for logs that nobody reads.
var discard = slog.New(slog.DiscardHandler)

// start runs the log until stop is called.
func (r *rig) start() (l *translog.Log, stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	l = translog.New(translog.Config{DB: r.store, Dir: r.log(), Node: r, Log: discard, Every: 100 * time.Millisecond})
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	return l, func() {
		cancel()
		<-done
		time.Sleep(50 * time.Millisecond) // what the appender has under way, which nothing can wait for
	}
}

// settle runs the log until all entries are in a signed checkpoint; it returns what is wrong otherwise.
func (r *rig) settle() error {
	r.t.Helper()
	l, stop := r.start()
	defer stop()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	return l.Settle(ctx)
}

// source reads the log from its files and the chain from the ledger.
type source struct {
	*translog.Log
	r *rig
}

// Checkpoint implements [inspect.Source].
func (s source) Checkpoint(context.Context) ([]byte, error) { return s.Log.Checkpoint() }

// Chain implements [inspect.Source].
func (s source) Chain(ctx context.Context, after uint64) ([][]byte, []byte, error) {
	return s.r.book.Chain(ctx, after)
}

func (r *rig) keys() inspect.Keys {
	return inspect.Keys{Node: statement.NewKey(r.key.Public().(ed25519.PublicKey)), Log: r.book.LogKey()}
}

func (r *rig) source() source {
	return source{translog.New(translog.Config{DB: r.store, Dir: r.log(), Node: r}), r}
}

// inspect looks at the log as a person's machine does.
func (r *rig) inspect(o inspect.Options) *inspect.Report {
	r.t.Helper()
	report, err := inspect.Inspect(r.t.Context(), r.source(), r.keys(), o)
	must(r.t, err)
	return report
}

// remember is what a person's machine knows after a report.
func remember(r *inspect.Report) inspect.Options {
	return inspect.Options{State: r.State, Seen: []*inspect.Checkpoint{r.Checkpoint}}
}

// snapshot copies a folder of the rig; restore puts it back.
func (r *rig) snapshot(name string) (restore func()) {
	r.t.Helper()
	saved := filepath.Join(r.t.TempDir(), "saved")
	r.close()
	must(r.t, os.CopyFS(saved, os.DirFS(filepath.Join(r.dir, name))))
	r.open()
	return func() {
		r.close()
		// A log that could not be opened leaves something running in its library for a moment, which still writes.
		var err error
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err = os.RemoveAll(filepath.Join(r.dir, name)); err == nil {
				break
			}
		}
		must(r.t, err)
		must(r.t, os.CopyFS(filepath.Join(r.dir, name), os.DirFS(saved)))
		r.open()
	}
}

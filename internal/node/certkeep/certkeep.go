// Package certkeep is the node's side of the certs process: it says for which names certificates are wanted, keeps what that process has to
// remember, sealed, and knows how each name stands.
//
// It promises that nothing of it lies on the disk in the clear, that a value is the one that was stored under its key or none, and that what
// is kept is bounded. It reads no value. Whoever owns the certs process can read and spoil what is kept for it, and say wrong things about its own
// certificates; they get no other file and no verb.
package certkeep

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Keeper keeps what the certs process has to remember.
type Keeper struct {
	db   *db.DB
	seal cipher.AEAD

	mu     sync.Mutex // guards what follows
	orders certsapi.Orders
	newer  chan struct{} // closed when orders change
	status []certsapi.Status
	anew   time.Time // when somebody last had a renewal tried at once
}

// Open opens the file with what is kept. The key, of 32 bytes, is the only one that reads it.
func Open(ctx context.Context, file string, key []byte) (*Keeper, error) {
	seal, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, file, []db.Migration{{ID: "certkeep-1", SQL: `
CREATE TABLE kept (
	key      TEXT PRIMARY KEY,
	sealed   BLOB NOT NULL,
	size     INTEGER NOT NULL,
	modified INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`}})
	if err != nil {
		return nil, err
	}
	return &Keeper{db: d, seal: seal, newer: make(chan struct{})}, nil
}

// Close closes the file.
func (k *Keeper) Close() error { return k.db.Close() }

// Order says what certificates are wanted; who waits for that is told if it is something else than before.
func (k *Keeper) Order(o certsapi.Orders) error {
	slices.Sort(o.Hosts)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.order(o, k.orders.Again)
}

// againTime is how often somebody may have one host tried at once: authorities count failures.
const againTime = time.Minute

// anewTime is how often renewals may be tried at once, of all hosts together.
const anewTime = 30 * time.Minute

// Again has a certificate for a host tried at once.
func (k *Keeper) Again(host bulwark.HostName, now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.orders.Hosts, host) {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("No certificate is wanted for %s.", host), "See bulwark certs; claim the host name with bulwark domains add.", nil)
	}
	at := slices.IndexFunc(k.status, func(s certsapi.Status) bool { return s.Host == host })
	if at < 0 {
		return bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("How the certificate for %s stands is not known yet.", host), "Try again in a minute.", nil)
	}
	s := k.status[at]
	if s.Stage == certsapi.Issued && (s.Error == "" || now.Before(s.RenewAt)) {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The certificate for %s is good until %s, and no renewal of it has failed.", host, s.NotAfter.UTC().Format(time.DateOnly)), "It is renewed by itself.", nil)
	}
	if ago := now.Sub(s.Tried); ago < againTime {
		return bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("A certificate for %s was tried %s ago.", host, ago.Round(time.Second)), "Authorities count failures: see with bulwark certs what went wrong, and try again in a minute.", nil)
	}
	if s.Stage == certsapi.Issued { // the process begins anew for it, and with it what is under way for others
		if ago := now.Sub(k.anew); ago < anewTime {
			return bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("Renewals were tried at once %s ago.", ago.Round(time.Second)), fmt.Sprintf("That is done once in %s for all host names together.", anewTime), nil)
		}
		k.anew = now
	}
	again := maps.Clone(k.orders.Again)
	if again == nil {
		again = map[bulwark.HostName]uint64{}
	}
	again[host]++
	return k.order(k.orders, again)
}

// order puts orders in the place of those before. The caller holds mu.
func (k *Keeper) order(o certsapi.Orders, again map[bulwark.HostName]uint64) error {
	o.Version, o.Again = "", again
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	o.Version = hex.EncodeToString(sum[:16])
	if o.Version == k.orders.Version {
		return nil
	}
	k.orders = o
	close(k.newer)
	k.newer = make(chan struct{})
	return nil
}

// Status is how each name stands, by the process's own word; empty if it said nothing yet.
func (k *Keeper) Status() []certsapi.Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.status)
}

// waitTime is how long a question for orders waits for others than those that are known.
const waitTime = 20 * time.Second

// Handler answers the certs process.
func (k *Keeper) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, r *http.Request) {
		o, ok := k.wait(r.Context(), r.FormValue("have"))
		if !ok {
			http.Error(w, "it is not known yet", http.StatusServiceUnavailable)
			return
		}
		reply(w, o)
	})
	mux.HandleFunc("PUT /status", func(w http.ResponseWriter, r *http.Request) {
		var all []certsapi.Status
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<20)).Decode(&all); err != nil {
			http.Error(w, "not well formed", http.StatusBadRequest)
			return
		}
		k.mu.Lock()
		k.status = all
		k.mu.Unlock()
	})
	mux.HandleFunc("PUT /kept", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, certsapi.MaxValue))
		if err == nil {
			err = k.store(r.Context(), r.FormValue("key"), b)
		}
		fail(w, err)
	})
	mux.HandleFunc("GET /kept", func(w http.ResponseWriter, r *http.Request) {
		b, err := k.load(r.Context(), r.FormValue("key"))
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(b) //nolint:gosec // bytes for the certs process, which may be gone
	})
	mux.HandleFunc("DELETE /kept", func(w http.ResponseWriter, r *http.Request) { fail(w, k.drop(r.Context(), r.FormValue("key"))) })
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		all, err := k.list(r.Context(), r.FormValue("below"))
		if err != nil {
			fail(w, err)
			return
		}
		reply(w, all)
	})
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case err == nil:
		return
	case errors.Is(err, sql.ErrNoRows):
		status = http.StatusNotFound
	case bulwark.KindOf(err) == bulwark.KindInvalid:
		status = http.StatusBadRequest
	case bulwark.KindOf(err) == bulwark.KindTooLarge:
		status = http.StatusInsufficientStorage
	}
	http.Error(w, err.Error(), status)
}

// wait returns the orders once they are others than those with a version, or time is over; false if there are none yet.
func (k *Keeper) wait(ctx context.Context, have string) (certsapi.Orders, bool) {
	end := time.NewTimer(waitTime)
	defer end.Stop()
	for {
		k.mu.Lock()
		o, newer := k.orders, k.newer
		k.mu.Unlock()
		if o.Version != "" && o.Version != have {
			return o, true
		}
		select {
		case <-newer:
			continue
		case <-ctx.Done():
		case <-end.C:
		}
		return o, o.Version != ""
	}
}

// wellFormed refuses a key that is not a path in its one form.
func wellFormed(key string) error {
	if key == "" || len(key) > certsapi.MaxKey || path.Clean("/"+key) != "/"+key || strings.ContainsRune(key, 0) {
		return bulwark.Invalid("The key is not well formed.", "")
	}
	return nil
}

func (k *Keeper) store(ctx context.Context, key string, value []byte) error {
	if err := wellFormed(key); err != nil {
		return err
	}
	nonce := make([]byte, k.seal.NonceSize(), k.seal.NonceSize()+len(value)+k.seal.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	// The key belongs to what is sealed: whoever writes to the disk cannot put one value in another's place.
	sealed := k.seal.Seal(nonce, nonce, value, []byte(key))
	return k.db.Tx(ctx, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM kept`).Scan(&n); err != nil {
			return err
		}
		if n >= certsapi.MaxKept {
			return bulwark.Failf(bulwark.KindTooLarge, "More than %d things are not kept.", certsapi.MaxKept)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO kept (key, sealed, size, modified) VALUES (?,?,?,?)
			ON CONFLICT DO UPDATE SET sealed = excluded.sealed, size = excluded.size, modified = excluded.modified`,
			key, sealed, len(value), time.Now().UnixNano())
		return err
	})
}

func (k *Keeper) load(ctx context.Context, key string) ([]byte, error) {
	var sealed []byte
	if err := k.db.Reader().QueryRowContext(ctx, `SELECT sealed FROM kept WHERE key = ?`, key).Scan(&sealed); err != nil {
		return nil, err
	}
	n := k.seal.NonceSize()
	if len(sealed) < n {
		return nil, errSpoilt
	}
	value, err := k.seal.Open(nil, sealed[:n], sealed[n:], []byte(key))
	if err != nil {
		return nil, errSpoilt
	}
	return value, nil
}

// errSpoilt is of a value that is not the one that was kept: somebody wrote to the disk, or the node's key is another. It is told as if there
// were none, so that another takes its place.
var errSpoilt = fmt.Errorf("certkeep: what is kept was changed on the disk: %w", sql.ErrNoRows)

// drop forgets a thing, or all that is in a folder: '0' is the byte after '/'.
func (k *Keeper) drop(ctx context.Context, key string) error {
	if err := wellFormed(key); err != nil {
		return err
	}
	return k.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM kept WHERE key = ?1 OR key >= ?1 || '/' AND key < ?1 || '0'`, key)
		return err
	})
}

func (k *Keeper) list(ctx context.Context, folder string) ([]certsapi.Kept, error) {
	rows, err := k.db.Reader().QueryContext(ctx, `SELECT key, size, modified FROM kept WHERE ?1 = '' OR key = ?1 OR key >= ?1 || '/' AND key < ?1 || '0' ORDER BY key`, strings.Trim(folder, "/"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []certsapi.Kept{}
	for rows.Next() {
		var e certsapi.Kept
		var at int64
		if err := rows.Scan(&e.Key, &e.Size, &at); err != nil {
			return nil, err
		}
		e.Modified = time.Unix(0, at).UTC()
		out = append(out, e)
	}
	return out, rows.Err()
}

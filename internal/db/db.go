// Package db opens the SQLite stores of the platform. It promises that a transaction that was committed is on disk (WAL,
// synchronous=FULL), that transactions that write are serialized and do not fail for being concurrent, and that a
// store is migrated, whole and in order, before anybody reads it.
//
// Whoever owns a process that opened a store can read and change all of it; that is why the store of the server holds no
// secret in the clear and why the node keeps a store of its own.
package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"modernc.org/sqlite" // also the driver, pure Go
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/bulwark-paas/bulwark"
)

// Migration is one step of a store's schema. It is never changed once released: a changed one is refused at start.
type Migration struct {
	ID  string // "app-1"
	SQL string
}

// DB is an open store.
type DB struct {
	write *sql.DB // one connection: SQLite has one writer, and waiting for it in Go is fair
	read  *sql.DB
}

// Open opens or makes the store at path and migrates it.
func Open(ctx context.Context, path string, migrations []Migration) (*DB, error) {
	// The file is made first, with its mode: SQLite would use the umask.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	f.Close()
	const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=trusted_schema(0)"
	write, err := sql.Open("sqlite", "file:"+path+pragmas+"&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", "file:"+path+pragmas+"&_pragma=query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	read.SetMaxOpenConns(4)
	d := &DB{write: write, read: read}
	if err := d.migrate(ctx, migrations); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) migrate(ctx context.Context, migrations []Migration) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`CREATE TABLE IF NOT EXISTS migration (id TEXT PRIMARY KEY, sum TEXT NOT NULL) STRICT`); err != nil {
			return err
		}
		for _, m := range migrations {
			s := sha256.Sum256([]byte(m.SQL))
			sum := hex.EncodeToString(s[:])
			var have string
			err := tx.QueryRow(`SELECT sum FROM migration WHERE id = ?`, m.ID).Scan(&have)
			switch {
			case err == nil && have != sum:
				return fmt.Errorf("db: migration %s was changed after it had been applied", m.ID)
			case err == nil:
				continue
			case !errors.Is(err, sql.ErrNoRows):
				return err
			}
			if _, err := tx.Exec(m.SQL); err != nil {
				return fmt.Errorf("db: migration %s: %w", m.ID, err)
			}
			if _, err := tx.Exec(`INSERT INTO migration (id, sum) VALUES (?, ?)`, m.ID, sum); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close closes the store.
func (d *DB) Close() error { return errors.Join(d.write.Close(), d.read.Close()) }

// Tx runs f in a transaction that may write. It is committed if f returns nil, else nothing of it happened.
func (d *DB) Tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		if e, ok := errors.AsType[*sqlite.Error](err); ok && diskFails(e.Code()) {
			if _, said := errors.AsType[*bulwark.Error](err); !said {
				return unavailable(err)
			}
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return unavailable(err)
	}
	return nil
}

// Reader returns the read-only side, for queries outside of a transaction.
func (d *DB) Reader() *sql.DB { return d.read }

// diskFails tells whether an error of SQLite's is one of the disk: full, or broken. The upper bits say more of it.
func diskFails(code int) bool {
	code &= 0xff
	return code == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR
}

func unavailable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return bulwark.Fail(bulwark.KindUnavailable, "The store cannot take the change, so nothing was changed.",
		"Check that the disk is not full and try again.", err)
}

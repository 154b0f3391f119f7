package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/files"
)

// sourceLife is how long a source waits for somebody to ask for its build. Who brought it asks next; that was canceled, or is a server that
// is gone and brings it again.
const sourceLife = time.Minute

// source takes the source of a build, before it is asked for.
func (b *builds) source(ctx context.Context, id bulwark.BuildID, cause bulwark.Digest, body io.Reader) error {
	_, receipt, err := b.ledger.Document(ctx, cause)
	if err != nil {
		return err
	}
	app, err := b.ledger.App(ctx, receipt.App)
	if err != nil {
		return err
	}
	if err := b.disks.room(); err != nil {
		return err
	}
	if b.find(id) != nil { // its source came before, and is in use
		_, err := io.Copy(io.Discard, body)
		return err
	}
	b.early(app)
	// It is brought into a folder that nobody knows, and appears whole, once: a second source for the same build finds the
	// first one there and changes nothing.
	dir, err := os.MkdirTemp(b.config.Dir, "in-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // no effect once renamed
	if err := files.Dir(dir, 0o711, 0); err != nil {
		return err
	}
	what, err := b.bring(ctx, receipt, app, dir, body)
	if err != nil {
		return err
	}
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	if err := files.Write(filepath.Join(dir, sourcedFile), text, 0o600); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, b.dir(id), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		_, err = readSourced(b.dir(id), cause)
	} else if err == nil {
		time.AfterFunc(sourceLife, func() { b.letGo(id) })
	}
	return err
}

// letGo removes the source of a build that nobody asked for, and that is asked for no more.
func (b *builds) letGo(id bulwark.BuildID) {
	if _, err := bulwark.ParseBuildID(string(id)); err != nil {
		return // an empty one would name the folder of all builds
	}
	b.mu.Lock()
	gone := b.dir(id) + ".gone"
	var err error
	if r := b.runs[id]; r == nil || r.ended() {
		err = os.Rename(b.dir(id), gone) // in one step: whoever asks for the build now finds it whole or not at all
	}
	b.mu.Unlock()
	if err == nil {
		err = os.RemoveAll(gone)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Warn("a source is left", "build", id, "error", err)
	}
}

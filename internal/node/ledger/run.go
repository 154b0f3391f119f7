package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The bounds of a command that a person runs once.
const (
	maxRunArgs  = 1024
	maxRunBytes = 64 << 10
	// detachedFor is how old, or how far in the future, the statement of a detached command may be when it comes. An attached
	// one needs no such bound: it starts only when who signed it answers.
	detachedFor = 10 * time.Minute
)

// Run takes the statement of a one-off instance, for one time: the same document again is refused, since a second start is
// not what a person who signed once has asked for. It returns the release to run it with, the promoted one.
func (l *Ledger) Run(ctx context.Context, envelope []byte) (*Receipt, *statement.Run, *statement.Bundle, error) {
	var body statement.Run
	var bundle *statement.Bundle
	r, err := l.submit(ctx, envelope, Named{}, func(tx *sql.Tx, r *Receipt, s *statement.Statement) error {
		if r.Kind != statement.KindRun {
			return bulwark.Invalid("The statement asks for something else.", "")
		}
		if s == nil {
			return bulwark.Fail(bulwark.KindForbidden, "The statement was used before.", "Run the command again.", nil)
		}
		if err := s.Decode(&body); err != nil {
			return err
		}
		if age := l.now().Sub(s.Time).Abs(); body.Detach && age > detachedFor {
			return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The command was signed %s away from the node's time; a detached one is good for %d minutes.",
				age.Round(time.Minute), int(detachedFor.Minutes())), "Run the command again; if it is refused again, set this machine's clock.", nil)
		}
		app, err := appByID(tx, r.App)
		if err != nil {
			return err
		}
		if app.Promoted == 0 {
			return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s has no release yet.", app.Name), "Deploy it first: git push bulwark main.", nil)
		}
		bundle, _, err = l.bundle(tx, app.ID, app.Promoted)
		return err
	})
	return r, &body, bundle, err
}

// checkRun refuses what cannot be run.
func checkRun(b statement.Run) error {
	size := 0
	for _, a := range b.Argv {
		size += len(a) + 1
	}
	switch {
	case len(b.Argv) == 0 || b.Argv[0] == "":
		return bulwark.Invalid("There is no command to run.", "Give one: bulwark run -- ls -l")
	case len(b.Argv) > maxRunArgs || size > maxRunBytes:
		return bulwark.Failf(bulwark.KindTooLarge, "A command has at most %d arguments and %d KiB.", maxRunArgs, maxRunBytes>>10)
	case slices.ContainsFunc(b.Argv, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return bulwark.Invalid("The command has a NUL byte, which an argument cannot hold.", "")
	case b.Detach != (len(b.Recipient) == 0) || b.Detach && b.Terminal:
		return bulwark.Invalid("A command has either somebody who listens or is detached.", "")
	}
	return nil
}

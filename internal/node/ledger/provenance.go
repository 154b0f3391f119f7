package ledger

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Provenance returns what was signed for the image that a build made.
func (l *Ledger) Provenance(ctx context.Context, id bulwark.BuildID) ([]byte, *statement.Provenance, error) {
	var env []byte
	err := l.db.Reader().QueryRowContext(ctx, `SELECT provenance FROM build WHERE id = ?`, id).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, bulwark.Failf(bulwark.KindNotFound, "No image of that build was admitted.")
	}
	if err != nil {
		return nil, nil, err
	}
	var p statement.Provenance
	return env, &p, statement.Open(env, statement.ProvenancePayloadType, l.public, &p)
}

package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Admit records the image that a build made for an accepted document. The provenance is the node's own, of what it
// measured; see package node.
func (l *Ledger) Admit(ctx context.Context, id bulwark.BuildID, cause bulwark.Digest, p *statement.Provenance) ([]byte, error) {
	env, err := statement.Seal(statement.ProvenancePayloadType, p, l.key)
	if err != nil {
		return nil, err
	}
	ext := p.Predicate.BuildDefinition.ExternalParameters
	image := bulwark.Digest("sha256:" + p.Subject[0].Digest["sha256"])
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		// A second build for the same document (the first was cut off) gives way to the one that was admitted.
		err := tx.QueryRow(`SELECT provenance FROM build WHERE cause = ?`, cause).Scan(&env)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`INSERT INTO build (id, app, cause, image, provenance) VALUES (?,?,?,?,?)`, id, ext.App, cause, image, env)
		return err
	})
	return env, err
}

// Built returns the provenance of the build that was admitted for a document, nil if there is none yet.
func (l *Ledger) Built(ctx context.Context, cause bulwark.Digest) (*statement.Provenance, error) {
	var env []byte
	err := l.db.Reader().QueryRowContext(ctx, `SELECT provenance FROM build WHERE cause = ?`, cause).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p statement.Provenance
	return &p, statement.Open(env, statement.ProvenancePayloadType, l.public, &p)
}

// Release makes the release that follows from an accepted document: of a push or deploy the image that was built for it,
// of a rollback an older release's image, of a config change or resize the image that serves now; always with the
// newest config, unless the person asked for the old one's. The same document gives the same release again.
func (l *Ledger) Release(ctx context.Context, cause bulwark.Digest) (*statement.Bundle, *statement.Release, error) {
	document, receipt, err := l.Document(ctx, cause)
	if err != nil {
		return nil, nil, err
	}
	var out *statement.Release
	var b *statement.Bundle
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, receipt.App)
		if err != nil {
			return err
		}
		var have uint64
		err = tx.QueryRow(`SELECT generation FROM release WHERE cause = ?`, cause).Scan(&have)
		if err == nil {
			b, out, err = l.bundle(tx, app.ID, have)
			return err
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := l.current(tx, receipt); err != nil {
			return err
		}
		r, provenance, origin, err := l.compose(tx, app, receipt)
		if err != nil {
			return err
		}
		env, err := statement.SealRelease(r, l.key)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO release (app, generation, cause, release, provenance, origin, upto) VALUES (?,?,?,?,?,?, (SELECT max(seq) FROM document))`,
			app.ID, r.Generation, cause, env, provenance, origin); err != nil {
			return err
		}
		out, b = r, &statement.Bundle{Release: env, Provenance: provenance, Cause: document}
		if origin != cause {
			if err := tx.QueryRow(`SELECT body FROM document WHERE digest = ?`, origin).Scan(&b.Origin); err != nil {
				return err
			}
		}
		_, err = tx.Exec(`UPDATE app SET newest = ? WHERE id = ?`, r.Generation, app.ID)
		return err
	})
	return b, out, err
}

// current refuses a document whose time has passed: somebody's key was removed since, or newer code was released. What was
// once signed must not come back when it suits somebody else.
func (l *Ledger) current(tx *sql.Tx, receipt *Receipt) error {
	if err := l.still(tx, receipt); err != nil {
		return err
	}
	switch receipt.Kind {
	case statement.KindPush, statement.KindDeploy, statement.KindRollback:
	default:
		return nil
	}
	var newest uint64
	err := tx.QueryRow(`SELECT coalesce(max(d.seq), 0) FROM release r JOIN document d ON d.digest = r.cause
		WHERE r.app = ? AND d.kind IN (?, ?, ?)`, receipt.App, statement.KindPush, statement.KindDeploy, statement.KindRollback).Scan(&newest)
	if err == nil && receipt.Seq < newest {
		err = bulwark.Fail(bulwark.KindConflict, "Something newer was released meanwhile.", "Push again, or use bulwark rollback.", nil)
	}
	return err
}

// compose decides what the next release is made of. origin is the document that the image was built for.
func (l *Ledger) compose(tx *sql.Tx, app *App, receipt *Receipt) (r *statement.Release, provenance []byte, origin bulwark.Digest, err error) {
	r = &statement.Release{Version: 1, Node: l.Node(), Project: app.Project, App: app.ID, Name: app.Name,
		Generation: app.Newest + 1, Cause: receipt.cause(), Time: l.now().UTC()}
	config := app.Config
	switch receipt.Kind {
	case statement.KindPush, statement.KindDeploy:
		origin = receipt.Digest
		err = tx.QueryRow(`SELECT provenance FROM build WHERE cause = ?`, origin).Scan(&provenance)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil, "", bulwark.Failf(bulwark.KindConflict, "There is no image for this yet.")
		}
		if err != nil {
			return nil, nil, "", err
		}
		var p statement.Provenance
		if err := statement.Open(provenance, statement.ProvenancePayloadType, l.public, &p); err != nil {
			return nil, nil, "", err
		}
		r.Plan = p.Predicate.BuildDefinition.ExternalParameters.Plan
		r.Image = bulwark.Digest("sha256:" + p.Subject[0].Digest["sha256"])
	case statement.KindRollback, statement.KindConfigSet, statement.KindResize:
		from := app.Promoted
		var body statement.Rollback
		if receipt.Kind == statement.KindRollback {
			if err := statement.Strict(receipt.Body, &body); err != nil {
				return nil, nil, "", err
			}
			from = body.To
		}
		if from == 0 {
			return nil, nil, "", bulwark.Failf(bulwark.KindConflict, "App %s has no release that serves yet.", app.Name)
		}
		b, old, err := l.bundle(tx, app.ID, from)
		if err != nil {
			return nil, nil, "", err
		}
		if body.Config {
			config = old.Config.Revision
		}
		if err := haveImage(tx, app, from, old.Image); err != nil {
			return nil, nil, "", err
		}
		r.Image, r.Plan, provenance = old.Image, old.Plan, b.Provenance
		err = tx.QueryRow(`SELECT origin FROM release WHERE app = ? AND generation = ?`, app.ID, from).Scan(&origin)
		if err != nil {
			return nil, nil, "", err
		}
	default:
		return nil, nil, "", bulwark.Failf(bulwark.KindInvalid, "A %s makes no release.", receipt.Kind)
	}
	r.Provenance = bulwark.Sum(provenance)
	if r.Config, err = configRef(tx, app.ID, config); err != nil {
		return nil, nil, "", err
	}
	r.Sizes, err = sizes(tx, app.ID)
	return r, provenance, origin, err
}

func configRef(tx *sql.Tx, app bulwark.AppID, revision uint64) (statement.ConfigRef, error) {
	ref := statement.ConfigRef{Revision: revision}
	if revision == 0 {
		return ref, nil
	}
	err := tx.QueryRow(`SELECT digest FROM config WHERE app = ? AND revision = ?`, app, revision).Scan(&ref.Digest)
	return ref, err
}

func sizes(tx *sql.Tx, app bulwark.AppID) (map[bulwark.ProcessType]bulwark.Size, error) {
	rows, err := tx.Query(`SELECT process, size FROM size WHERE app = ?`, app)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[bulwark.ProcessType]bulwark.Size{}
	for rows.Next() {
		var p bulwark.ProcessType
		var z bulwark.Size
		if err := rows.Scan(&p, &z); err != nil {
			return nil, err
		}
		out[p] = z
	}
	return out, rows.Err()
}

// bundle loads a release with all it refers to and verifies it again: what was read from disk is believed for its
// signatures, not for where it lay.
func (l *Ledger) bundle(tx *sql.Tx, app bulwark.AppID, generation uint64) (*statement.Bundle, *statement.Release, error) {
	var b statement.Bundle
	var cause, origin bulwark.Digest
	err := tx.QueryRow(`SELECT release, provenance, cause, origin FROM release WHERE app = ? AND generation = ?`, app, generation).
		Scan(&b.Release, &b.Provenance, &cause, &origin)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, bulwark.Failf(bulwark.KindNotFound, "There is no release v%d.", generation)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := tx.QueryRow(`SELECT body FROM document WHERE digest = ?`, cause).Scan(&b.Cause); err != nil {
		return nil, nil, err
	}
	if origin != cause {
		if err := tx.QueryRow(`SELECT body FROM document WHERE digest = ?`, origin).Scan(&b.Origin); err != nil {
			return nil, nil, err
		}
	}
	r, _, err := statement.OpenRelease(b, l.public)
	if err == nil && (r.App != app || r.Generation != generation) {
		err = bulwark.Failf(bulwark.KindForbidden, "The release statement is of another release.")
	}
	return &b, r, err
}

// Bundle returns a release of an app with everything that verifies it.
func (l *Ledger) Bundle(ctx context.Context, app bulwark.AppID, generation uint64) (b *statement.Bundle, r *statement.Release, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		b, r, err = l.bundle(tx, app, generation)
		return err
	})
	return b, r, err
}

// Launch is all that the node needs to start an instance.
type Launch struct {
	App     App
	Release *statement.Release
	Digest  bulwark.Digest // of the release's envelope
	Hosts   []bulwark.HostName
	Values  map[bulwark.ConfigName][]byte // opened; to be wiped by forgetting
}

// Launch verifies a bundle for a start: every signature again, the person's right again, and that it is the promoted
// release or the newest, approved if it takes that. Nothing older starts, whoever asks.
func (l *Ledger) Launch(ctx context.Context, b statement.Bundle) (*Launch, error) {
	r, _, err := statement.OpenRelease(b, l.public)
	if err != nil {
		return nil, err
	}
	out := &Launch{Release: r, Digest: bulwark.Sum(b.Release)}
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, r.App)
		if err != nil {
			return err
		}
		out.App = *app
		if r.Generation != app.Promoted && r.Generation != app.Newest {
			return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("Release v%d of %s is not current: v%d is.", r.Generation, app.Name, app.Promoted),
				"Use bulwark rollback to return to it.", nil)
		}
		var kept []byte
		if err := tx.QueryRow(`SELECT release FROM release WHERE app = ? AND generation = ?`, r.App, r.Generation).Scan(&kept); err != nil || !bytes.Equal(kept, b.Release) {
			return bulwark.Fail(bulwark.KindForbidden, "The release statement is not the one in the ledger.", "Deploy the app again.", err)
		}
		if _, err := l.approved(tx, app, r.Generation); err != nil {
			return err
		}
		if r.Node != l.Node() || r.Project != app.Project {
			return bulwark.Failf(bulwark.KindForbidden, "The release statement is of another installation or project.")
		}
		// Both documents must be in the book: signed by a key that was good when they were accepted.
		for _, doc := range [][]byte{b.Cause, b.Origin} {
			if doc == nil {
				continue
			}
			if rec, err := known(tx, bulwark.Sum(doc)); err != nil || rec == nil || rec.App != r.App {
				return bulwark.Fail(bulwark.KindForbidden, "Nobody signed for this release.", "", err)
			}
		}
		if out.Values, err = l.open(tx, app, r.Config); err != nil {
			return err
		}
		out.Hosts, err = l.hosts(tx, app)
		return err
	})
	return out, err
}

// open opens the values of a config revision and checks that they are the revision's.
func (l *Ledger) open(tx *sql.Tx, app *App, ref statement.ConfigRef) (map[bulwark.ConfigName][]byte, error) {
	values := map[bulwark.ConfigName][]byte{}
	if ref.Revision == 0 {
		return values, nil
	}
	k, _, err := l.secret(tx, app.Project)
	if err != nil {
		return nil, err
	}
	digests, sealed, err := configAt(tx, app.ID, ref.Revision)
	if err != nil {
		return nil, err
	}
	for name, s := range sealed {
		v, err := k.Open(l.place(app, seal.UseConfig, name), s)
		if err != nil {
			return nil, err
		}
		if k.ValueDigest(name, v) != digests[name] {
			return nil, bulwark.Failf(bulwark.KindForbidden, "The value of %s is not the one that was set.", name)
		}
		values[name] = v
	}
	if k.Revision(digests) != ref.Digest {
		return nil, bulwark.Failf(bulwark.KindForbidden, "The config of %s is not the revision that the release names.", app.Name)
	}
	return values, nil
}

// BuildSecrets returns the opened build secrets of an app.
func (l *Ledger) BuildSecrets(ctx context.Context, id bulwark.AppID) (map[bulwark.ConfigName][]byte, error) {
	out := map[bulwark.ConfigName][]byte{}
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if err != nil {
			return err
		}
		k, _, err := l.secret(tx, app.Project)
		if err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT name, sealed FROM build_secret WHERE app = ?`, id)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name bulwark.ConfigName
			var sealed []byte
			if err := rows.Scan(&name, &sealed); err != nil {
				return err
			}
			if out[name], err = k.Open(l.place(app, seal.UseBuild, name), sealed); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return out, err
}

// revealFor is how old, or how far in the future, a statement that asks for a value may be when it comes.
const revealFor = 10 * time.Minute

// Reveal takes the statement of a person who asks for one variable of the newest config revision, for one time, and seals
// the value to the key that they named. The same statement again is refused: it would open what the variable became since.
func (l *Ledger) Reveal(ctx context.Context, envelope []byte) ([]byte, error) {
	var body statement.ConfigReveal
	var out []byte
	_, err := l.submit(ctx, envelope, Named{}, func(tx *sql.Tx, receipt *Receipt, s *statement.Statement) error {
		if receipt.Kind != statement.KindConfigReveal {
			return bulwark.Invalid("The statement asks for something else.", "")
		}
		if s == nil || l.now().Sub(s.Time).Abs() > revealFor {
			return bulwark.Fail(bulwark.KindForbidden, "The statement was used before or is too old.",
				"Run the command again; if it is refused again, set this machine's clock.", nil)
		}
		if err := s.Decode(&body); err != nil {
			return err
		}
		app, err := appByID(tx, receipt.App)
		if err != nil {
			return err
		}
		ref, err := configRef(tx, app.ID, app.Config)
		if err != nil {
			return err
		}
		values, err := l.open(tx, app, ref)
		if err != nil {
			return err
		}
		v, ok := values[body.Name]
		if !ok {
			return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("%s has no config variable %s.", app.Name, body.Name), "See bulwark config.", nil)
		}
		out, err = seal.Value(body.Recipient, l.place(app, seal.UseReveal, body.Name), v)
		return err
	})
	return out, err
}

// Hosts returns the host names that an app answers to.
func (l *Ledger) Hosts(ctx context.Context, id bulwark.AppID) (hosts []bulwark.HostName, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if err != nil {
			return err
		}
		hosts, err = l.hosts(tx, app)
		return err
	})
	return hosts, err
}

func (l *Ledger) hosts(tx *sql.Tx, app *App) ([]bulwark.HostName, error) {
	out := []bulwark.HostName{bulwark.HostName(string(app.Name) + "." + string(l.domain))}
	rows, err := tx.Query(`SELECT host FROM host WHERE app = ? ORDER BY host`, app.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var h bulwark.HostName
		if err := rows.Scan(&h); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, rows.Err()
}

// Promote raises the app's high-water mark to a generation that was seen healthy, and that others approved if it takes that.
// It never goes back.
func (l *Ledger) Promote(ctx context.Context, id bulwark.AppID, generation uint64) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if err != nil {
			return err
		}
		if generation < app.Promoted || generation > app.Newest {
			return bulwark.Failf(bulwark.KindConflict, "Release v%d of %s cannot be promoted: v%d serves and v%d is the newest.",
				generation, app.Name, app.Promoted, app.Newest)
		}
		by, err := l.approved(tx, app, generation)
		if err != nil {
			return err
		}
		if err := keepApprovals(tx, app, generation, by); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE app SET promoted = ? WHERE id = ?`, generation, id)
		return err
	})
}

// Layers returns what was recorded of an unpacked image: its layers, bottom first.
func (l *Ledger) Layers(ctx context.Context, image bulwark.Digest) (layers []Layer, config ImageConfig, err error) {
	var a, b []byte
	err = l.db.Reader().QueryRowContext(ctx, `SELECT layers, config FROM image WHERE digest = ?`, image).Scan(&a, &b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, config, bulwark.Failf(bulwark.KindNotFound, "The image is not here.")
	}
	if err != nil {
		return nil, config, err
	}
	if err := json.Unmarshal(a, &layers); err != nil {
		return nil, config, err
	}
	return layers, config, json.Unmarshal(b, &config)
}

// Layer is an unpacked layer: the digest of its blob, as the node hashed it, and that of the file-system image made of it.
// It is keyed by the blob and not by the diff id, which an image's config merely claims: a claim must not decide what
// another app's image with the same claim is made of.
type Layer struct {
	Blob  bulwark.Digest `json:"blob"`
	EROFS bulwark.Digest `json:"erofs"`
}

// ImageConfig is what an instance takes from an OCI image's config.
type ImageConfig struct {
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"`
}

// RecordImage keeps what admission found out about an image.
func (l *Ledger) RecordImage(ctx context.Context, image bulwark.Digest, layers []Layer, config ImageConfig) error {
	a, err := json.Marshal(layers)
	if err != nil {
		return err
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, y := range layers {
			if _, err := tx.Exec(`INSERT INTO layer (blob, erofs) VALUES (?,?) ON CONFLICT DO UPDATE SET erofs = excluded.erofs`, y.Blob, y.EROFS); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO image (digest, layers, config) VALUES (?,?,?) ON CONFLICT DO UPDATE SET layers = excluded.layers, config = excluded.config`, image, string(a), string(b))
		return err
	})
}

// LayerFile returns the digest of the file-system image that a layer was made into before, "" if it was not.
func (l *Ledger) LayerFile(ctx context.Context, blob bulwark.Digest) (d bulwark.Digest, err error) {
	err = l.db.Reader().QueryRowContext(ctx, `SELECT erofs FROM layer WHERE blob = ?`, blob).Scan(&d)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return d, err
}

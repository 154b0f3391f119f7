package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A protected app's release runs when other people than the one who brought it about have approved it. One key, whosever it
// is, must not be enough: neither for the release, nor to take the protection away, nor by letting a second person in. So it
// is written down who could deploy when the protection was agreed upon, and those people count; who came later does not until
// the protection is agreed upon anew.

// maxApprovals bounds how many people an app can ask for.
const maxApprovals = 10

func approvalMigrations() []db.Migration {
	return []db.Migration{{ID: "ledger-approvals", SQL: `
ALTER TABLE app ADD COLUMN approvals INTEGER NOT NULL DEFAULT 0;
-- The newest document when the release was made: what came before it may be in it.
ALTER TABLE release ADD COLUMN upto INTEGER NOT NULL DEFAULT 0;
UPDATE release SET upto = coalesce((SELECT seq FROM document WHERE digest = release.cause), 0);
-- How many approvals it took when it was promoted.
ALTER TABLE release ADD COLUMN needed INTEGER NOT NULL DEFAULT 0;
CREATE TABLE approver (
	app    TEXT NOT NULL REFERENCES app (id),
	person TEXT NOT NULL REFERENCES person (id),
	PRIMARY KEY (app, person)
) STRICT;
CREATE TABLE approval (
	about    TEXT NOT NULL,
	person   TEXT NOT NULL REFERENCES person (id),
	app      TEXT NOT NULL REFERENCES app (id),
	document TEXT NOT NULL,
	counted  INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (about, person)
) STRICT;
CREATE TABLE protect_request (
	app       TEXT PRIMARY KEY REFERENCES app (id),
	request   TEXT NOT NULL,
	approvals INTEGER NOT NULL
) STRICT;
`}}
}

// protect takes what an owner says about an app's protection. More than before counts at once, and lets nobody new count.
// Anything else waits for others to agree.
func (l *Ledger) protect(tx *sql.Tx, app *App, b statement.Protect, r *Receipt) error {
	if b.Approvals < 0 || b.Approvals > maxApprovals {
		return bulwark.Invalid(fmt.Sprintf("An app asks for between 0 and %d approvals.", maxApprovals), "")
	}
	r.Protection = &statement.Protection{Approvals: app.Approvals}
	switch {
	case b.Approvals == app.Approvals && app.Approvals == 0:
		return nil
	case b.Approvals > app.Approvals:
		r.Protection.Approvals = b.Approvals
		return l.setProtection(tx, app, b.Approvals, app.Approvals == 0)
	}
	if _, err := tx.Exec(`INSERT INTO protect_request (app, request, approvals) VALUES (?,?,?)
		ON CONFLICT (app) DO UPDATE SET request = excluded.request, approvals = excluded.approvals`, app.ID, r.Digest, b.Approvals); err != nil {
		return err
	}
	missing, _, err := l.missing(tx, app, r.Digest, r.Person, nil, "")
	r.Protection.Asked = &statement.Asked{Approvals: b.Approvals, Request: r.Digest, Person: r.Person, Missing: missing}
	return err
}

// approveProtect has somebody agree with what was asked for, and makes it so when enough have.
func (l *Ledger) approveProtect(tx *sql.Tx, app *App, b statement.ProtectApprove, r *Receipt) error {
	var request bulwark.Digest
	var approvals int
	err := tx.QueryRow(`SELECT request, approvals FROM protect_request WHERE app = ?`, app.ID).Scan(&request, &approvals)
	if errors.Is(err, sql.ErrNoRows) {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("Nobody asks for another protection of %s.", app.Name), "See bulwark apps info.", nil)
	}
	if err != nil {
		return err
	}
	if b.Request != request || b.Approvals != approvals {
		return bulwark.Fail(bulwark.KindConflict, "Something else is asked for now.", "See bulwark apps info, and run the command again if you agree.", nil)
	}
	asked, err := known(tx, request)
	if err != nil {
		return err
	}
	if err := l.still(tx, asked); err != nil {
		return bulwark.Fail(bulwark.KindForbidden, "Who asked for it may not do so any more.", "Ask for it anew: bulwark apps protect.", err)
	}
	if r.Person == asked.Person {
		return bulwark.Fail(bulwark.KindForbidden, "You asked for it yourself, so another person has to agree.", "Ask somebody who may deploy.", nil)
	}
	if err := l.mustCount(tx, app, r.Person); err != nil {
		return err
	}
	missing, _, err := l.missing(tx, app, request, asked.Person, nil, r.Person)
	if err != nil {
		return err
	}
	if missing > 0 {
		r.Protection = &statement.Protection{Approvals: app.Approvals,
			Asked: &statement.Asked{Approvals: approvals, Request: request, Person: asked.Person, Missing: missing}}
		return agree(tx, app, request, r)
	}
	r.Protection = &statement.Protection{Approvals: approvals}
	if err := agree(tx, app, request, r); err != nil {
		return err
	}
	return l.setProtection(tx, app, approvals, true)
}

// setProtection makes a number of approvals hold; with anew, those count from now on who may deploy now.
func (l *Ledger) setProtection(tx *sql.Tx, app *App, approvals int, anew bool) error {
	if _, err := tx.Exec(`DELETE FROM protect_request WHERE app = ?`, app.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE app SET approvals = ? WHERE id = ?`, approvals, app.ID); err != nil {
		return err
	}
	if anew {
		if _, err := tx.Exec(`DELETE FROM approver WHERE app = ?`, app.ID); err != nil {
			return err
		}
	}
	if approvals == 0 {
		return nil
	}
	people, err := column[bulwark.PersonID](tx, `SELECT DISTINCT m.person FROM member m JOIN project p ON p.org = m.org WHERE p.id = ?`, app.Project)
	if err != nil {
		return err
	}
	able := 0
	for _, p := range people {
		may, err := l.mayDeploy(tx, app, p)
		if err != nil {
			return err
		}
		if !may {
			continue
		}
		if anew {
			if _, err := tx.Exec(`INSERT INTO approver (app, person) VALUES (?,?)`, app.ID, p); err != nil {
				return err
			}
		}
		does, err := counts(tx, app, p)
		if err != nil {
			return err
		}
		if does {
			able++
		}
	}
	if able <= approvals {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("With %d approvals of others, nobody could deploy to %s: those who count are %d.", approvals, app.Name, able),
			"Invite somebody first, bulwark members add, or ask for fewer. Who was invited since the app is protected counts when the protection is agreed upon anew.", nil)
	}
	return nil
}

// approve takes a person's approval of a release. How many there are is looked at where it matters.
func (l *Ledger) approve(tx *sql.Tx, app *App, b statement.Approve, r *Receipt) error {
	var env []byte
	err := tx.QueryRow(`SELECT release FROM release WHERE app = ? AND generation = ?`, app.ID, b.Generation).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no release v%d.", app.Name, b.Generation), "See bulwark releases.", nil)
	}
	if err != nil {
		return err
	}
	refuse := func(kind bulwark.Kind, hint, format string, args ...any) error {
		return bulwark.Fail(kind, fmt.Sprintf(format, args...), hint, nil)
	}
	switch {
	case bulwark.Sum(env) != b.Release:
		return refuse(bulwark.KindForbidden, "Run the command again.", "What was approved is not release v%d of %s.", b.Generation, app.Name)
	case app.Approvals == 0:
		return refuse(bulwark.KindConflict, "See bulwark apps protect.", "App %s is not protected: none of its releases waits for an approval.", app.Name)
	case b.Generation <= app.Promoted:
		return refuse(bulwark.KindConflict, "See bulwark releases.", "Release v%d of %s does not wait for an approval: v%d serves.", b.Generation, app.Name, app.Promoted)
	case b.Generation < app.Newest:
		return refuse(bulwark.KindConflict, fmt.Sprintf("See bulwark releases; v%d is the one to approve.", app.Newest), "Something newer than v%d was released meanwhile.", b.Generation)
	}
	causer, hands, err := l.authors(tx, app, b.Generation)
	if err != nil {
		return err
	}
	switch {
	case r.Person == causer:
		return refuse(bulwark.KindForbidden, "Ask somebody else who may deploy.", "You brought release v%d about, so another person has to approve it.", b.Generation)
	case slices.Contains(hands, r.Person):
		return refuse(bulwark.KindForbidden, "Ask a third person, or deploy it yourself and have another approve that.",
			"Release v%d brings along config, sizes or build secrets that you changed, so another person has to approve it.", b.Generation)
	}
	if err := l.mustCount(tx, app, r.Person); err != nil {
		return err
	}
	return agree(tx, app, b.Release, r)
}

// agree writes an approval down. A later one of the same person takes the place of the earlier, whose key may be gone.
func agree(tx *sql.Tx, app *App, about bulwark.Digest, r *Receipt) error {
	_, err := tx.Exec(`INSERT INTO approval (about, person, app, document) VALUES (?,?,?,?) ON CONFLICT (about, person) DO UPDATE SET document = excluded.document`,
		about, r.Person, app.ID, r.Digest)
	return err
}

// authors returns who brought a release about, and who else had a hand in it: in what it brings along that the release that
// serves has not, which is config and sizes, and build secrets if it has another image. Else one could change the config, wait
// for somebody's push to take it along, and approve that.
func (l *Ledger) authors(tx *sql.Tx, app *App, generation uint64) (causer bulwark.PersonID, hands []bulwark.PersonID, err error) {
	var now, serves parts
	if now, err = l.parts(tx, app, generation); err != nil {
		return "", nil, err
	}
	if app.Promoted > 0 {
		if serves, err = l.parts(tx, app, app.Promoted); err != nil {
			return "", nil, err
		}
	}
	built := serves.built
	if now.origin == serves.origin {
		built = now.upto
	}
	hands, err = column[bulwark.PersonID](tx, `SELECT DISTINCT person FROM document WHERE app = ? AND (
		kind = ? AND json_extract(receipt, '$.config.revision') > ? AND json_extract(receipt, '$.config.revision') <= ?
		OR kind = ? AND seq > ? AND seq <= ? OR kind = ? AND seq > ? AND seq <= ?)`, app.ID,
		statement.KindConfigSet, serves.config, now.config, statement.KindResize, serves.upto, now.upto, statement.KindBuildSecret, built, now.upto)
	return now.causer, hands, err
}

// parts says up to where people's changes are in a release.
type parts struct {
	causer bulwark.PersonID
	config uint64         // revision
	upto   uint64         // the newest document when it was made
	origin bulwark.Digest // what its image was built for
	built  uint64         // its number: secrets that were set later are not in the image
}

func (l *Ledger) parts(tx *sql.Tx, app *App, generation uint64) (p parts, err error) {
	_, r, err := l.bundle(tx, app.ID, generation)
	if err != nil {
		return p, err
	}
	p.config = r.Config.Revision
	err = tx.QueryRow(`SELECT c.person, r.upto, r.origin, o.seq FROM release r JOIN document c ON c.digest = r.cause JOIN document o ON o.digest = r.origin
		WHERE r.app = ? AND r.generation = ?`, app.ID, generation).Scan(&p.causer, &p.upto, &p.origin, &p.built)
	return p, err
}

// missing returns how many approvals a release, or a change of the protection, lacks, and those that count: of distinct people
// other than who asks and those who had a hand in it, by keys and rights that they have at this moment. Who asks counts as one
// of those who agree if they are one who counts; else one more has to. also is somebody whose approval is not written yet.
func (l *Ledger) missing(tx *sql.Tx, app *App, about bulwark.Digest, causer bulwark.PersonID, hands []bulwark.PersonID, also bulwark.PersonID) (int, []statement.Cause, error) {
	need := app.Approvals + 1
	does, err := counts(tx, app, causer)
	if err != nil {
		return 0, nil, err
	}
	may, err := l.mayDeploy(tx, app, causer)
	if err != nil {
		return 0, nil, err
	}
	if does && may {
		need--
	}
	documents, err := column[bulwark.Digest](tx, `SELECT document FROM approval WHERE about = ? AND app = ? AND person <> ? ORDER BY rowid`, about, app.ID, also)
	if err != nil {
		return 0, nil, err
	}
	if also != "" {
		need--
	}
	var by []statement.Cause
	for _, d := range documents {
		r, err := known(tx, d)
		if err != nil {
			return 0, nil, err
		}
		if r == nil || r.Person == causer || slices.Contains(hands, r.Person) {
			continue
		}
		if does, err = counts(tx, app, r.Person); err != nil {
			return 0, nil, err
		}
		err = l.still(tx, r)
		switch kind := bulwark.KindOf(err); {
		case err == nil && does:
			by = append(by, r.cause())
		case err != nil && kind != bulwark.KindForbidden && kind != bulwark.KindNotFound:
			return 0, nil, err
		}
	}
	return max(0, need-len(by)), by, nil
}

// approved refuses a release that is not promoted yet and lacks approvals, and returns those that count.
func (l *Ledger) approved(tx *sql.Tx, app *App, generation uint64) ([]statement.Cause, error) {
	if app.Approvals == 0 || generation <= app.Promoted {
		return nil, nil
	}
	missing, by, err := l.approvalsOf(tx, app, generation)
	if err == nil && missing > 0 {
		err = bulwark.Fail(bulwark.KindForbidden, statement.Waits(app.Name, generation, missing), "", nil)
	}
	return by, err
}

func (l *Ledger) approvalsOf(tx *sql.Tx, app *App, generation uint64) (int, []statement.Cause, error) {
	about, err := releaseDigest(tx, app, generation)
	if err != nil {
		return 0, nil, err
	}
	causer, hands, err := l.authors(tx, app, generation)
	if err != nil {
		return 0, nil, err
	}
	return l.missing(tx, app, about, causer, hands, "")
}

func releaseDigest(tx *sql.Tx, app *App, generation uint64) (bulwark.Digest, error) {
	var env []byte
	err := tx.QueryRow(`SELECT release FROM release WHERE app = ? AND generation = ?`, app.ID, generation).Scan(&env)
	if errors.Is(err, sql.ErrNoRows) {
		return "", bulwark.Failf(bulwark.KindNotFound, "There is no release v%d.", generation)
	}
	return bulwark.Sum(env), err
}

// keepApprovals writes down by whose approvals a release was promoted: what comes later, such as somebody's leaving, does not
// change that it was.
func keepApprovals(tx *sql.Tx, app *App, generation uint64, by []statement.Cause) error {
	if app.Approvals == 0 || generation <= app.Promoted {
		return nil
	}
	for _, c := range by {
		if _, err := tx.Exec(`UPDATE approval SET counted = 1 WHERE app = ? AND document = ?`, app.ID, c.Digest); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`UPDATE release SET needed = ? WHERE app = ? AND generation = ?`, app.Approvals, app.ID, generation)
	return err
}

// Approvals returns how many approvals a release lacks, and the documents of those that count.
func (l *Ledger) Approvals(ctx context.Context, id bulwark.AppID, generation uint64) (missing int, documents [][]byte, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if err != nil {
			return err
		}
		var by []statement.Cause
		switch {
		case generation <= app.Promoted:
			by, err = countedFor(tx, app, generation)
		case generation < app.Newest:
			err = bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("Something newer than v%d of %s was released meanwhile.", generation, app.Name), "See bulwark releases.", nil)
		case app.Approvals > 0:
			missing, by, err = l.approvalsOf(tx, app, generation)
		}
		if err != nil {
			return err
		}
		for _, c := range by {
			var body []byte
			if err := tx.QueryRow(`SELECT body FROM document WHERE digest = ?`, c.Digest).Scan(&body); err != nil {
				return err
			}
			documents = append(documents, body)
		}
		return nil
	})
	return missing, documents, err
}

// Approved is what the node has to say about who approved the release that serves; nil if nobody had to and nobody has to.
func (l *Ledger) Approved(ctx context.Context, id bulwark.AppID) (out *statement.Approved, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if bulwark.KindOf(err) == bulwark.KindNotFound {
			return nil // it was destroyed, and its instances end
		}
		if err != nil || app.Promoted == 0 {
			return err
		}
		var needed int
		if err := tx.QueryRow(`SELECT needed FROM release WHERE app = ? AND generation = ?`, app.ID, app.Promoted).Scan(&needed); err != nil {
			return err
		}
		if needed == 0 && app.Approvals == 0 {
			return nil
		}
		by, err := countedFor(tx, app, app.Promoted)
		out = &statement.Approved{Generation: app.Promoted, Needed: needed, By: by}
		return err
	})
	return out, err
}

// countedFor returns the approvals by which a release was promoted.
func countedFor(tx *sql.Tx, app *App, generation uint64) ([]statement.Cause, error) {
	about, err := releaseDigest(tx, app, generation)
	if err != nil {
		return nil, err
	}
	documents, err := column[bulwark.Digest](tx, `SELECT document FROM approval WHERE about = ? AND app = ? AND counted = 1 ORDER BY rowid`, about, app.ID)
	var out []statement.Cause
	for _, d := range documents {
		r, err := known(tx, d)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, r.cause())
		}
	}
	return out, err
}

// counts tells whether somebody is one of those who could deploy when the protection was agreed upon.
func counts(tx *sql.Tx, app *App, person bulwark.PersonID) (does bool, err error) {
	err = tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM approver WHERE app = ? AND person = ?)`, app.ID, person).Scan(&does)
	return does, err
}

func (l *Ledger) mustCount(tx *sql.Tx, app *App, person bulwark.PersonID) error {
	does, err := counts(tx, app, person)
	if err == nil && !does {
		err = bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("You came after %s was protected, so your approval does not count yet.", app.Name),
			fmt.Sprintf("Have the protection agreed upon anew: an owner runs bulwark apps protect %[1]s --approvals %[2]d, and another person the same with --approve.", app.Name, app.Approvals), nil)
	}
	return err
}

// mayDeploy tells whether somebody has a role with which they may approve, at this moment.
func (l *Ledger) mayDeploy(tx *sql.Tx, app *App, person bulwark.PersonID) (bool, error) {
	all, err := grants(tx, person)
	if err != nil {
		return false, err
	}
	org, project, err := appPlace(tx, app.ID)
	if err != nil {
		return false, err
	}
	return right.Has(all, org, project, right.Rules()[statement.KindApprove].Roles...), nil
}

// countsAtOnce has somebody count who came with the one-time token that root on the machine makes: root could write this
// ledger, and an app whose people have left is not lost so.
func countsAtOnce(tx *sql.Tx, person bulwark.PersonID) error {
	_, err := tx.Exec(`INSERT INTO approver (app, person) SELECT a.id, ? FROM app a JOIN project p ON p.id = a.project WHERE a.approvals > 0 AND a.destroyed < 2 AND p.org = ?`,
		person, bulwark.FirstOrg)
	return err
}

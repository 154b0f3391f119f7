package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// App is what the ledger knows of an app.
type App struct {
	ID       bulwark.AppID
	Name     bulwark.AppName
	Project  bulwark.ProjectID
	Block    uint32 // which block of the installation's uid range is the app's own; never given twice
	Newest   uint64 // the newest generation that was released
	Promoted uint64 // the newest generation that was promoted; 0 for none
	Config   uint64 // the newest config revision
	// Approvals is how many other people have to approve a release.
	Approvals int
}

// apply gives a verified statement, which its signer may sign, its effect.
func (l *Ledger) apply(tx *sql.Tx, p *Principal, s *statement.Statement, r *Receipt, named Named) error {
	if done, err := l.applyPeople(tx, p, s, r); done {
		return err
	}
	switch s.Kind {
	case statement.KindAppCreate:
		return decode(s, func(b statement.AppCreate) error { return createApp(tx, p, s.App, b) })
	case statement.KindAppDestroy:
		return decode(s, func(b statement.AppDestroy) error { return l.destroyApp(tx, s, b, r) })
	case statement.KindAppRestore:
		return decode(s, func(b statement.AppRestore) error { return restoreApp(tx, s.App, b, r) })
	case statement.KindKeyAdd:
		return decode(s, func(b statement.KeyAdd) error { return keyAdd(tx, b, l.Node(), r) })
	case statement.KindKeyRemove:
		return decode(s, func(b statement.KeyRemove) error { return keyRemove(tx, b, p, r) })
	case statement.KindRegistryAllow:
		return decode(s, func(b statement.Registry) error { return allowRegistry(tx, b) })
	case statement.KindRegistryRemove:
		return decode(s, func(b statement.RegistryRemove) error { return removeRegistry(tx, b) })
	case statement.KindPatchAdd:
		return decode(s, func(b bulwark.Patch) error { return addPatch(tx, b, r, l.now()) })
	case statement.KindPatchRemove:
		return decode(s, func(b statement.PatchRemove) error { return removePatch(tx, b.Name) })
	}
	app, err := appByID(tx, s.App)
	if err != nil {
		return err
	}
	switch s.Kind {
	case statement.KindDeploy:
		return decode(s, func(b statement.Deploy) error { return b.Check() })
	case statement.KindRollback:
		return decode(s, func(b statement.Rollback) error { return checkRollback(tx, app, b) })
	case statement.KindConfigSet:
		return decode(s, func(b statement.ConfigSet) error { return l.setConfig(tx, app, b, r) })
	case statement.KindBuildSecret:
		return decode(s, func(b statement.ConfigSet) error { return l.setBuildSecrets(tx, app, b) })
	case statement.KindConfigReveal:
		return decode(s, func(b statement.ConfigReveal) error { return nil })
	case statement.KindRun:
		return decode(s, checkRun)
	case statement.KindResize:
		return decode(s, func(b statement.Resize) error { return l.resize(tx, app, b) })
	case statement.KindProtect:
		return decode(s, func(b statement.Protect) error { return l.protect(tx, app, b, r) })
	case statement.KindProtectApprove:
		return decode(s, func(b statement.ProtectApprove) error { return l.approveProtect(tx, app, b, r) })
	case statement.KindApprove:
		return decode(s, func(b statement.Approve) error { return l.approve(tx, app, b, r) })
	case statement.KindDomainAdd:
		return decode(s, func(b statement.Domain) error { return l.claimHost(tx, p, app, b.Host, named, r) })
	case statement.KindDomainRemove:
		return decode(s, func(b statement.Domain) error {
			_, err := tx.Exec(`DELETE FROM host WHERE host = ? AND app = ?`, b.Host, app.ID)
			return err
		})
	case statement.KindCertAdd:
		return decode(s, func(b statement.CertAdd) error { return l.addCertificate(tx, app, b) })
	case statement.KindCertRemove:
		return decode(s, func(b statement.CertRemove) error { return removeCertificate(tx, app, b.Host) })
	case statement.KindEgressAllow:
		return decode(s, func(b statement.Egress) error {
			if _, err := netpolicy.ParseTarget(b.Rule); err != nil {
				return err
			}
			// What is private belongs to the machine and its network, so only the installation's owners may open it.
			private := right.Has(p.Grants, bulwark.FirstOrg, "", bulwark.Owner)
			_, err := tx.Exec(`INSERT INTO egress (app, rule, private) VALUES (?,?,?) ON CONFLICT DO UPDATE SET private = max(private, excluded.private)`, app.ID, b.Rule, private)
			return err
		})
	case statement.KindEgressDeny:
		return decode(s, func(b statement.Egress) error {
			_, err := tx.Exec(`DELETE FROM egress WHERE app = ? AND rule = ?`, app.ID, b.Rule)
			return err
		})
	case statement.KindShieldSet:
		return decode(s, func(b statement.Shield) error { return l.setShield(tx, app, b.Change) })
	}
	return bulwark.Invalid(fmt.Sprintf("There is no statement of kind %q.", s.Kind), "Use a bulwark command of the same version as the server.")
}

func decode[T any](s *statement.Statement, f func(T) error) error {
	var body T
	if err := s.Decode(&body); err != nil {
		return err
	}
	return f(body)
}

// maxApps bounds the apps that an organisation makes, ever; the first one is those people's who run the installation.
const maxApps = 250

func createApp(tx *sql.Tx, p *Principal, id bulwark.AppID, b statement.AppCreate) error {
	if id == "" || b.Name == "" {
		return bulwark.Invalid("A new app needs an id and a name.", "")
	}
	var taken bulwark.AppID
	err := tx.QueryRow(`SELECT id FROM app WHERE id = ? OR (name = ? AND destroyed < 2)`, id, b.Name).Scan(&taken)
	if err == nil {
		return nameTaken(tx, p, taken, b.Name)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	project := b.Project
	if project == "" {
		project = bulwark.FirstProject
	}
	// Each app has ids of its own for ever, and there are so many of them: one organisation must not use up all.
	var ever int
	if err := tx.QueryRow(`SELECT count(*) FROM app a JOIN project p ON p.id = a.project WHERE p.org = (SELECT org FROM project WHERE id = ?) AND p.org <> ?`,
		project, bulwark.FirstOrg).Scan(&ever); err != nil {
		return err
	}
	if ever >= maxApps {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("An organisation can make %d apps, those counted that were destroyed.", maxApps),
			"Deploy to an app that is there, or ask those who run the installation.", nil)
	}
	_, err = tx.Exec(`INSERT INTO app (id, name, project, block) VALUES (?,?,?, (SELECT coalesce(max(block), 0) + 1 FROM app))`,
		id, b.Name, project)
	return err
}

// nameTaken refuses a name.
func nameTaken(tx *sql.Tx, p *Principal, id bulwark.AppID, name bulwark.AppName) error {
	if was := destroyedTo(tx, p, id); was != nil && was.Name == name {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s was destroyed and can still be brought back, so its name is taken.", name),
			fmt.Sprintf("Bring it back with bulwark apps restore %[1]s, or free the name with bulwark apps destroy %[1]s --now.", name), nil)
	}
	return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("There is an app named %s already.", name), "Choose another name.", nil)
}

func keyAdd(tx *sql.Tx, b statement.KeyAdd, node string, r *Receipt) error {
	if (b.SSH == nil) == (b.Device == nil) {
		return bulwark.Invalid("Give either an SSH key or a device key.", "")
	}
	if b.SSH != nil {
		return addSSH(tx, *b.SSH, node, r)
	}
	k, err := statement.VerifyDevice(b.Device, b.Proof, node, r.Key)
	if err != nil {
		return err
	}
	return addKey(tx, "device", k.Fingerprint, k.PKIX(), r.Person)
}

func keyRemove(tx *sql.Tx, b statement.KeyRemove, p *Principal, r *Receipt) error {
	if b.Fingerprint == r.Key {
		return bulwark.Invalid("A key cannot remove itself.", "Remove it from another device, so that you are not locked out.")
	}
	// A stolen key must not depend on its victim: the owners of the installation may take it away, too.
	owner := right.Has(p.Grants, bulwark.FirstOrg, "", bulwark.Owner)
	res, err := tx.Exec(`UPDATE key SET removed = 1 WHERE fingerprint = ? AND removed = 0 AND (person = ? OR ?)`, b.Fingerprint, p.Person, owner)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Failf(bulwark.KindNotFound, "There is no key with this fingerprint.")
	}
	return nil
}

func checkRollback(tx *sql.Tx, app *App, b statement.Rollback) error {
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM release WHERE app = ? AND generation = ?`, app.ID, b.To).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no release v%d.", app.Name, b.To), "See bulwark releases.", nil)
	}
	return nil
}

// MaxConfig is how many config variables an app may have.
const MaxConfig = 10_000

func (l *Ledger) setConfig(tx *sql.Tx, app *App, b statement.ConfigSet, r *Receipt) error {
	if b.Base != app.Config {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The config of %s was changed meanwhile: it is at revision %d, not %d.", app.Name, app.Config, b.Base),
			"Run the command again.", nil)
	}
	k, err := l.sealedTo(tx, app, b)
	if err != nil {
		return err
	}
	next := app.Config + 1
	closeValue := func(name bulwark.ConfigName) error {
		_, err := tx.Exec(`UPDATE config_value SET until = ? WHERE app = ? AND name = ? AND until > ?`, app.Config, app.ID, name, app.Config)
		return err
	}
	for _, name := range b.Unset {
		if err := closeValue(name); err != nil {
			return err
		}
	}
	for name, sealed := range b.Set {
		if slices.Contains(b.Unset, name) {
			return bulwark.Invalid(fmt.Sprintf("%s is both set and unset.", name), "")
		}
		value, err := k.Open(l.place(app, seal.UseConfig, name), sealed)
		if err != nil {
			return err
		}
		if err := seal.CheckValue(name, value); err != nil {
			return err
		}
		if err := closeValue(name); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO config_value (app, name, since, sealed, digest) VALUES (?,?,?,?,?)`,
			app.ID, name, next, sealed, k.ValueDigest(name, value)); err != nil {
			return err
		}
	}
	digests, sealed, err := configAt(tx, app.ID, next)
	if err != nil {
		return err
	}
	total := 0
	for name, s := range sealed {
		total += len(name) + max(0, len(s)-seal.Overhead)
	}
	if total > seal.MaxTotal {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The config variables of %s take %d bytes together; an environment holds at most %d.",
			app.Name, total, seal.MaxTotal), "Put large values into a file of the app or a data service.", nil)
	}
	if len(digests) > MaxConfig {
		return bulwark.Failf(bulwark.KindTooLarge, "An app has at most %d config variables.", MaxConfig)
	}
	ref := statement.ConfigRef{Revision: next, Digest: k.Revision(digests)}
	r.Config = &ref
	// The receipt carries the names, for display; the ciphertexts stay in the document.
	if _, err := tx.Exec(`INSERT INTO config (app, revision, digest) VALUES (?,?,?)`, app.ID, next, ref.Digest); err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE app SET config = ? WHERE id = ?`, next, app.ID)
	return err
}

func (l *Ledger) setBuildSecrets(tx *sql.Tx, app *App, b statement.ConfigSet) error {
	k, err := l.sealedTo(tx, app, b)
	if err != nil {
		return err
	}
	for _, name := range b.Unset {
		if _, err := tx.Exec(`DELETE FROM build_secret WHERE app = ? AND name = ?`, app.ID, name); err != nil {
			return err
		}
	}
	for name, sealed := range b.Set {
		value, err := k.Open(l.place(app, seal.UseBuild, name), sealed)
		if err != nil {
			return err
		}
		if err := seal.CheckValue(name, value); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO build_secret (app, name, sealed) VALUES (?,?,?) ON CONFLICT DO UPDATE SET sealed = excluded.sealed`,
			app.ID, name, sealed); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) place(app *App, use string, name bulwark.ConfigName) seal.Place {
	return seal.Place{Node: l.Node(), Project: app.Project, App: app.ID, Use: use, Name: name}
}

// configAt returns the digests and ciphertexts of a config revision.
func configAt(tx *sql.Tx, app bulwark.AppID, revision uint64) (map[bulwark.ConfigName]bulwark.Digest, map[bulwark.ConfigName][]byte, error) {
	rows, err := tx.Query(`SELECT name, digest, sealed FROM config_value WHERE app = ? AND since <= ? AND until >= ?`, app, revision, revision)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	digests, sealed := map[bulwark.ConfigName]bulwark.Digest{}, map[bulwark.ConfigName][]byte{}
	for rows.Next() {
		var n bulwark.ConfigName
		var d bulwark.Digest
		var s []byte
		if err := rows.Scan(&n, &d, &s); err != nil {
			return nil, nil, err
		}
		digests[n], sealed[n] = d, s
	}
	return digests, sealed, rows.Err()
}

// resize takes sizes of what the release that serves has: a misspelt name is refused, and no name is kept that nobody has.
func (l *Ledger) resize(tx *sql.Tx, app *App, b statement.Resize) error {
	if app.Promoted == 0 {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s has no release that serves yet.", app.Name), "Deploy it first: git push bulwark main.", nil)
	}
	_, r, err := l.bundle(tx, app.ID, app.Promoted)
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(b.Sizes)) {
		_, process := r.Plan.Processes[p]
		if !process && !slices.ContainsFunc(r.Plan.Cron, func(j bulwark.CronJob) bool { return j.Name == p }) {
			return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("App %s has no process type %s.", app.Name, p), "See bulwark ps and bulwark cron.", nil)
		}
	}
	for p, z := range b.Sizes {
		if _, err := tx.Exec(`INSERT INTO size (app, process, size) VALUES (?,?,?) ON CONFLICT DO UPDATE SET size = excluded.size`, app.ID, p, z); err != nil {
			return err
		}
	}
	return nil
}

func appByID(tx *sql.Tx, id bulwark.AppID) (*App, error) {
	a := &App{ID: id}
	err := tx.QueryRow(`SELECT name, project, block, newest, promoted, config, approvals FROM app WHERE id = ? AND destroyed = 0`, id).
		Scan(&a.Name, &a.Project, &a.Block, &a.Newest, &a.Promoted, &a.Config, &a.Approvals)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, bulwark.Failf(bulwark.KindNotFound, "There is no such app.")
	}
	return a, err
}

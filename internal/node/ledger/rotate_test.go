package ledger_test

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// kept is a book whose files a test can look at, with an app that has been through some changes.
type kept struct {
	*book
	path   string
	ana    *person
	shop   bulwark.AppID
	first  *statement.Bundle // TOKEN=one
	second *statement.Bundle // TOKEN=two, OTHER=x
}

func keep(t *testing.T) *kept {
	path := filepath.Join(t.TempDir(), "ledger.db")
	k := &kept{book: openAt(t, path), path: path}
	k.ana = k.enrol()
	k.shop = k.app(k.ana, "shop")
	k.set(k.ana, k.shop, 0, "TOKEN", "one")
	k.first, _ = k.deployed(k.ana, k.shop, "shop")
	k.set(k.ana, k.shop, 1, "TOKEN", "two")
	r := k.set(k.ana, k.shop, 2, "OTHER", "x")
	var rel *statement.Release
	var err error
	k.second, rel, err = k.Release(k.ctx(), r.Digest)
	ok(t, err)
	ok(t, k.Promote(k.ctx(), k.shop, rel.Generation))
	k.must(k.ana, statement.KindBuildSecret, k.shop, statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{"NPM_TOKEN": k.value(k.shop, seal.UseBuild, "NPM_TOKEN", "s")}})
	return k
}

func rotation() statement.ProjectRotate {
	return statement.ProjectRotate{Project: bulwark.FirstProject}
}

func (k *kept) rotates() {
	k.t.Helper()
	before := k.key().Version
	if r := k.must(k.ana, statement.KindProjectRotate, "", rotation()); r.Rotated != before+1 || k.key().Version != before+1 {
		k.t.Fatalf("version %d made %d, and %d counts", before, r.Rotated, k.key().Version)
	}
	ok(k.t, k.Settle(k.ctx()))
}

// restarts is what a node does that was killed.
func (k *kept) restarts() {
	k.t.Helper()
	ok(k.t, k.Close())
	reopen(k.t, k.book, k.path)
	ok(k.t, k.Settle(k.ctx()))
}

// opens looks whether everything opens that somebody might ask for: the release that serves, a rollback to the first one with
// its config, the build secrets, a revealed value.
func (k *kept) opens() {
	k.t.Helper()
	l, err := k.launches(k.second)
	ok(k.t, err)
	if string(l.Values["TOKEN"]) != "two" || string(l.Values["OTHER"]) != "x" || len(l.Values) != 2 {
		k.t.Fatalf("the release starts with %q", l.Values)
	}
	r := k.must(k.ana, statement.KindRollback, k.shop, statement.Rollback{To: 1, Config: true})
	b, rel, err := k.Release(k.ctx(), r.Digest)
	ok(k.t, err)
	l, err = k.launches(b)
	ok(k.t, err)
	if string(l.Values["TOKEN"]) != "one" || len(l.Values) != 1 {
		k.t.Fatalf("release v%d, which goes back, starts with %q", rel.Generation, l.Values)
	}
	secrets, err := k.BuildSecrets(k.ctx(), k.shop)
	ok(k.t, err)
	if string(secrets["NPM_TOKEN"]) != "s" {
		k.t.Fatalf("a build gets %q", secrets)
	}
	mine, err := seal.GenerateKey()
	ok(k.t, err)
	sealed, err := k.Reveal(k.ctx(), k.sign(k.ana.device, statement.KindConfigReveal, k.shop, statement.ConfigReveal{Name: "TOKEN", Recipient: mine.Public()}))
	ok(k.t, err)
	if v, err := mine.Open(k.place(k.shop, seal.UseReveal, "TOKEN"), sealed); err != nil || string(v) != "two" {
		k.t.Fatalf("TOKEN is shown as %q, %v", v, err)
	}
}

// files are the names in the folder of the keys that belong to the first project.
func (k *kept) files() []string {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	ok(k.t, err)
	var out []string
	for _, e := range entries {
		if strings.Contains(e.Name(), string(bulwark.FirstProject)) {
			out = append(out, strings.Replace(e.Name(), string(bulwark.FirstProject), "P", 1))
		}
	}
	return out
}

func (k *kept) hasFiles(want ...string) {
	k.t.Helper()
	if got := k.files(); !slices.Equal(got, want) {
		k.t.Fatalf("there is %q, want %q", got, want)
	}
}

// After a rotation everything opens and has the digests that it had, in releases of before, too; and after ten.
func TestRotate(t *testing.T) {
	k := keep(t)
	k.opens()
	was := k.key()
	k.rotates()
	if now := k.key(); now.Version != 2 || bytes.Equal(now.Public, was.Public) {
		t.Fatalf("the key is %d, %x", now.Version, bulwark.Sum(now.Public))
	}
	k.hasFiles("P.2.key", "P.2.key.age")
	k.opens()
	for range 9 {
		k.rotates()
	}
	k.opens()
	k.restarts()
	k.opens()
	k.hasFiles("P.11.key", "P.11.key.age")
	// The digests are those that they were: the same value gives the same release's digest.
	_, before, err := k.Bundle(k.ctx(), k.shop, 2)
	ok(t, err)
	r := k.set(k.ana, k.shop, 3, "TOKEN", "two")
	if r.Config.Digest != before.Config.Digest {
		t.Errorf("the same variables are %s, and were %s", r.Config.Digest, before.Config.Digest)
	}
	// Another project's key is another matter.
	if all, err := k.ProjectKeys(k.ctx()); err != nil || slices.ContainsFunc(all, func(p statement.ProjectKey) bool { return p.Project == bulwark.PostureProject && p.Version != 1 }) {
		t.Errorf("%+v, %v", all, err)
	}
}

// What was the key is nowhere on disk, and opens nothing that the ledger gives to anybody. What people signed for stays as they
// signed it, with what they sealed to the key of that time; docs/security.md says so.
func TestOldKeyIsGone(t *testing.T) {
	k := keep(t)
	old := k.private()
	secret, err := old.Bytes()
	ok(t, err)
	count := func() (opens int) {
		t.Helper()
		d, err := sql.Open("sqlite", "file:"+k.path+"?_pragma=query_only(1)")
		ok(t, err)
		defer d.Close()
		rows, err := d.Query(`SELECT 'config', name, sealed FROM config_value UNION ALL SELECT 'build-secret', name, sealed FROM build_secret`)
		ok(t, err)
		defer rows.Close()
		n := 0
		for rows.Next() {
			var use, name string
			var sealed []byte
			ok(t, rows.Scan(&use, &name, &sealed))
			n++
			if _, err := old.Open(k.place(k.shop, use, bulwark.ConfigName(name)), sealed); err == nil {
				opens++
			}
		}
		ok(t, rows.Err())
		if n != 4 {
			t.Fatalf("there are %d values", n)
		}
		return opens
	}
	if n := count(); n != 4 {
		t.Fatalf("the key opens %d values before it is replaced", n)
	}
	k.rotates()
	if n := count(); n != 0 {
		t.Errorf("the old key opens %d values", n)
	}
	ok(t, k.Close()) // whatever SQLite had in its log is in its file
	look := func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for what, s := range map[string][]byte{"raw": secret, "base64": []byte(base64.StdEncoding.EncodeToString(secret)[:40])} {
			if bytes.Contains(b, s) {
				t.Errorf("%s has the old key (%s)", path, what)
			}
		}
		return err
	}
	ok(t, filepath.WalkDir(k.dir, look))
	ok(t, filepath.WalkDir(filepath.Dir(k.path), look))
	reopen(t, k.book, k.path)
	// Only a key that is derived from it stays, from which nothing leads back.
	now, err := k.private().Bytes()
	ok(t, err)
	if bytes.Contains(now, secret) {
		t.Error("the new key holds the old one")
	}
}

// The operator's recovery key opens the copy of the key that counts, and with it everything.
func TestRecoverRotated(t *testing.T) {
	k := keep(t)
	k.rotates()
	k.rotates()
	b, err := os.ReadFile(filepath.Join(k.dir, string(bulwark.FirstProject)+".3.key.age"))
	ok(t, err)
	r, err := age.Decrypt(bytes.NewReader(b), k.spare)
	ok(t, err)
	plain, err := io.ReadAll(r)
	ok(t, err)
	ok(t, k.Close())
	k.dir = t.TempDir() // the machine is lost, but for its ledger and the copy
	ok(t, os.WriteFile(filepath.Join(k.dir, string(bulwark.FirstProject)+".3.key"), plain, 0o600))
	posture, err := age.GenerateHybridIdentity()
	ok(t, err)
	_, err = projectkeys.Open(k.dir, posture.Recipient()).Make(bulwark.PostureProject, 1, nil)
	ok(t, err)
	d, err := sql.Open("sqlite", "file:"+k.path)
	ok(t, err)
	_, err = d.Exec(`UPDATE project SET key_version = 0 WHERE id = ?`, bulwark.PostureProject)
	ok(t, err)
	ok(t, d.Close())
	reopen(t, k.book, k.path)
	k.opens()
}

// A new key that nobody could use, because the transaction was not committed, is used at the next attempt or removed.
func TestRotateFails(t *testing.T) {
	k := keep(t)
	d, err := sql.Open("sqlite", "file:"+k.path)
	ok(t, err)
	defer d.Close()
	var sealed []byte
	ok(t, d.QueryRow(`SELECT sealed FROM build_secret`).Scan(&sealed))
	_, err = d.Exec(`UPDATE build_secret SET sealed = x'00'`)
	ok(t, err)
	_, err = k.Submit(k.ctx(), k.sign(k.ana.device, statement.KindProjectRotate, "", rotation()))
	isKind(t, err, bulwark.KindConflict)
	if !strings.Contains(err.Error(), "NPM_TOKEN") || k.key().Version != 1 {
		t.Errorf("%v; version %d", err, k.key().Version)
	}
	ok(t, k.Settle(k.ctx()))
	k.hasFiles("P.key", "P.key.age")
	_, err = d.Exec(`UPDATE build_secret SET sealed = ?`, sealed)
	ok(t, err)
	k.opens()
	k.rotates()
	k.opens()
}

// A row never names a key that is not there: without it, or with another, nothing is opened, made or removed.
func TestKeyMissing(t *testing.T) {
	k := keep(t)
	k.rotates()
	file := filepath.Join(k.dir, string(bulwark.FirstProject)+".2.key")
	b, err := os.ReadFile(file)
	ok(t, err)
	other, err := seal.GenerateKey()
	ok(t, err)
	wrong, err := other.Bytes()
	ok(t, err)
	ok(t, k.Close())
	for name, spoil := range map[string]func() error{
		"gone":    func() error { return os.Remove(file) },
		"another": func() error { return os.WriteFile(file, wrong, 0o600) },
		"cut off": func() error { return os.WriteFile(file, b[:20], 0o600) },
	} {
		ok(t, spoil())
		if err := tryOpen(k); err == nil {
			t.Errorf("%s: the ledger opened", name)
		}
		ok(t, os.WriteFile(file, b, 0o600))
	}
	reopen(t, k.book, k.path)
	k.opens()
}

// Config changes that come while keys are replaced are taken, or refused by a kind that says what to do. None is lost.
func TestRotateAtOnce(t *testing.T) {
	k := keep(t)
	app := k.app(k.ana, "busy")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := k.Submit(k.ctx(), k.sign(k.ana.device, statement.KindProjectRotate, "", rotation())); err != nil {
				t.Error(err)
			}
			if err := k.Settle(k.ctx()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if l, err := k.launches(k.second); err != nil || string(l.Values["TOKEN"]) != "two" {
				t.Errorf("a start failed: %v", err)
			}
			if _, err := k.BuildSecrets(k.ctx(), k.shop); err != nil {
				t.Errorf("a build failed: %v", err)
			}
		}
	})
	stale := 0
	for i := range uint64(40) {
		name := bulwark.ConfigName(fmt.Sprintf("V%d", i))
		for { // as the person's machine does
			key := k.key()
			sealed, err := seal.Value(key.Public, k.place(app, seal.UseConfig, name), []byte(name))
			ok(t, err)
			_, err = k.Submit(k.ctx(), k.sign(k.ana.device, statement.KindConfigSet, app, statement.ConfigSet{Base: i, Key: key.Version, Set: map[bulwark.ConfigName][]byte{name: sealed}}))
			if err == nil {
				break
			}
			if bulwark.KindOf(err) != bulwark.KindStale {
				t.Fatal(err)
			}
			stale++
		}
	}
	close(done)
	wg.Wait()
	t.Logf("%d versions, %d values came too late and were sealed again", k.key().Version, stale)
	_, rel := k.deployed(k.ana, app, "busy")
	b, _, err := k.Bundle(k.ctx(), app, rel.Generation)
	ok(t, err)
	l, err := k.launches(b)
	ok(t, err)
	for i := range 40 {
		name := bulwark.ConfigName(fmt.Sprintf("V%d", i))
		if string(l.Values[name]) != string(name) {
			t.Errorf("%s is %q", name, l.Values[name])
		}
	}
	k.opens()
}

// What was sealed to the key of before is refused by a kind of its own; what says that it was and was not, does not open.
func TestStaleValue(t *testing.T) {
	k := keep(t)
	old := k.key()
	late := k.value(k.shop, seal.UseConfig, "TOKEN", "late")
	k.rotates()
	set := func(version uint64) statement.ConfigSet {
		return statement.ConfigSet{Base: 3, Key: version, Set: map[bulwark.ConfigName][]byte{"TOKEN": late}}
	}
	for _, version := range []uint64{0, old.Version, 3, 1 << 60} {
		k.refused(k.ana, bulwark.KindStale, statement.KindConfigSet, k.shop, set(version))
		k.refused(k.ana, bulwark.KindStale, statement.KindBuildSecret, k.shop, set(version))
	}
	k.refused(k.ana, bulwark.KindForbidden, statement.KindConfigSet, k.shop, set(2))
	k.refused(k.ana, bulwark.KindForbidden, statement.KindBuildSecret, k.shop, set(2))
	// What has no value has no key.
	k.must(k.ana, statement.KindConfigSet, k.shop, statement.ConfigSet{Base: 3, Unset: []bulwark.ConfigName{"OTHER"}})
	k.set(k.ana, k.shop, 4, "OTHER", "x")
	if l, err := k.launches(k.second); err != nil || string(l.Values["OTHER"]) != "x" {
		t.Errorf("%v", err)
	}
}

// The owners of the organisation, and nobody else.
func TestWhoRotates(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	b.must(operator, statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: operator.id})
	inProject := at
	inProject.Project = project
	body := statement.ProjectRotate{Project: project}
	for _, role := range []bulwark.Role{bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor} {
		if role != bulwark.Owner {
			b.refused(b.invite(owner, at, role), bulwark.KindForbidden, statement.KindProjectRotate, "", body)
		}
		b.refused(b.invite(owner, inProject, role), bulwark.KindForbidden, statement.KindProjectRotate, "", body)
	}
	b.refused(operator, bulwark.KindForbidden, statement.KindProjectRotate, "", body)
	b.refused(owner, bulwark.KindForbidden, statement.KindProjectRotate, "", rotation())
	b.refused(owner, bulwark.KindNotFound, statement.KindProjectRotate, "", statement.ProjectRotate{Project: bulwark.NewProjectID()})
	b.refused(owner, bulwark.KindInvalid, statement.KindProjectRotate, "", statement.ProjectRotate{})
	envelope := b.sign(owner.device, statement.KindProjectRotate, "", body)
	for range 2 { // the same document is one rotation
		r, err := b.Submit(b.ctx(), envelope)
		ok(t, err)
		if r.Rotated != 2 || r.Chain == nil {
			t.Errorf("%+v", r)
		}
	}
	all, err := b.ProjectKeys(b.ctx())
	ok(t, err)
	for _, k := range all {
		if want := map[bool]uint64{true: 2, false: 1}[k.Project == project]; k.Version != want {
			t.Errorf("%s has version %d", k.Project, k.Version)
		}
	}
	// A statement of the node's own is the node's alone to make.
	s, err := statement.New(b.Node(), statement.KindProjectRotate, "", body, b.clock)
	ok(t, err)
	for _, key := range []*person{owner, {device: b.node}} {
		own, err := statement.Seal(statement.OwnPayloadType, s, key.device)
		ok(t, err)
		if _, err := b.Submit(b.ctx(), own); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%v", err)
		}
	}
}

// The node replaces what is too old by itself, each project's by its own age, and says so in its chain.
func TestRotateByAge(t *testing.T) {
	const quarter = 90 * 24 * time.Hour
	k := keep(t)
	young, project := k.org(k.ana, "young")
	_ = young
	due := func() []bulwark.ProjectID {
		t.Helper()
		made, err := k.RotateDue(k.ctx(), quarter)
		ok(t, err)
		ok(t, k.Settle(k.ctx()))
		var out []bulwark.ProjectID
		for _, m := range made {
			out = append(out, m.Project)
		}
		return out
	}
	k.clock = k.key().Since.Add(quarter - time.Hour)
	k.must(k.ana, statement.KindProjectRotate, "", statement.ProjectRotate{Project: project})
	if got := due(); len(got) != 0 {
		t.Fatalf("%v were too old", got)
	}
	k.clock = k.clock.Add(2 * time.Hour)
	links, _, err := k.Chain(k.ctx(), 0)
	ok(t, err)
	before := len(links)
	if got := due(); !slices.Equal(got, []bulwark.ProjectID{bulwark.FirstProject, bulwark.PostureProject}) {
		t.Fatalf("%v were too old", got)
	}
	if got := due(); len(got) != 0 {
		t.Fatalf("%v were too old again", got)
	}
	if now := k.key(); now.Version != 2 || !now.Since.Equal(k.clock.Truncate(time.Second)) {
		t.Errorf("%+v", now)
	}
	k.opens()
	all, _, err := k.Chain(k.ctx(), 0)
	ok(t, err)
	own := 0
	for _, b := range all[before:] {
		var link statement.Link
		ok(t, statement.Strict(b, &link))
		if link.Kind != statement.KindProjectRotate {
			continue
		}
		own++
		r, err := k.Accepted(k.ctx(), link.Document)
		ok(t, err)
		if link.Person != "" || link.Key != k.Node() || r.Rotated != 2 {
			t.Errorf("the link is %+v, the receipt %+v", link, r)
		}
	}
	if own != 2 {
		t.Errorf("%d links tell of it", own)
	}
	// A key that a wrong clock dated far ahead does not stay for ever.
	k.clock = k.clock.Add(-3 * quarter)
	if got := due(); len(got) != 3 {
		t.Errorf("%v are from the future", got)
	}
}

// An installation from before there were versions goes on with the key that it has; one that lost it says so.
func TestKeyFromBefore(t *testing.T) {
	k := keep(t)
	ok(t, k.Close())
	d, err := sql.Open("sqlite", "file:"+k.path)
	ok(t, err)
	defer d.Close()
	forget := func() {
		t.Helper()
		_, err = d.Exec(`UPDATE project SET key_version = 0, key_since = 0, key_public = x''`)
		ok(t, err)
	}
	forget()
	file := filepath.Join(k.dir, string(bulwark.FirstProject)+".key")
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ok(t, os.Chtimes(file, made, made))
	ok(t, os.Rename(file, file+".away"))
	if err := tryOpen(k); bulwark.KindOf(err) != bulwark.KindUnavailable || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("another key was made")
	}
	ok(t, os.Rename(file+".away", file))
	reopen(t, k.book, k.path)
	if key := k.key(); key.Version != 1 || !key.Since.Equal(made) {
		t.Errorf("%+v", key)
	}
	k.opens()
	k.rotates()
	k.opens()
}

// A disk that takes no new key leaves all as it was, and the person is told why.
func TestRotateDiskFull(t *testing.T) {
	k := keep(t)
	// Root may write where a mode says no, so the folder is away.
	away := k.dir + ".away"
	ok(t, os.Rename(k.dir, away))
	_, err := k.Submit(k.ctx(), k.sign(k.ana.device, statement.KindProjectRotate, "", rotation()))
	ok(t, os.Rename(away, k.dir))
	isKind(t, err, bulwark.KindUnavailable)
	if !strings.Contains(err.Error(), "nothing was changed") {
		t.Error(err)
	}
	k.restarts()
	k.opens()
	k.hasFiles("P.key", "P.key.age")
	k.rotates()
	k.opens()
}

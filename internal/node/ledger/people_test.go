package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Nobody becomes a person without the secret of an unused token, and each token makes one person.
func TestEnrollTakesOneTokenOnce(t *testing.T) {
	b := open(t)
	secret := []byte("the secret of the token")
	p := &person{device: newKey(t), ssh: newSSH(t)}
	env := b.enrolment(p, secret)

	_, err := b.Enroll(b.ctx(), env)
	isKind(t, err, bulwark.KindForbidden) // no token was made yet

	ok(t, b.AddToken(b.ctx(), []byte("an earlier one")))
	ok(t, b.AddToken(b.ctx(), secret))
	_, err = b.Enroll(b.ctx(), b.enrolment(p, []byte("an earlier one")))
	isKind(t, err, bulwark.KindForbidden) // a newer token ended it
	_, err = b.Enroll(b.ctx(), b.enrolment(p, nil))
	isKind(t, err, bulwark.KindForbidden) // a spent token's secret is empty: an empty one must prove nothing

	first, err := b.Enroll(b.ctx(), env)
	ok(t, err)
	again, err := b.Enroll(b.ctx(), env) // the answer was lost
	ok(t, err)
	if again.Person != first.Person {
		t.Fatal("the same enrolment made two people")
	}
	_, err = b.Enroll(b.ctx(), b.enrolment(&person{device: newKey(t), ssh: newSSH(t)}, secret))
	isKind(t, err, bulwark.KindForbidden) // the token is spent
	_, err = b.Enroll(b.ctx(), b.enrolment(&person{device: newKey(t), ssh: newSSH(t)}, nil))
	isKind(t, err, bulwark.KindForbidden)
	if n, err := b.People(b.ctx()); err != nil || n != 1 {
		t.Fatalf("%d people, %v", n, err)
	}
}

// The server carries enrolments. It sees a proof and cannot put a key of its own under it, nor sign for somebody else's key.
func TestEnrollCannotBeTakenOver(t *testing.T) {
	b := open(t)
	secret := []byte("the secret of the token")
	ok(t, b.AddToken(b.ctx(), secret))
	victim, server := newKey(t), newKey(t)
	proof := enrol.Proof(secret, pkix(victim))
	for name, c := range map[string]struct {
		body   statement.Enroll
		signed ed25519.PrivateKey
		kind   statement.Kind
	}{
		"the server's key under the victim's proof":    {statement.Enroll{Device: pkix(server), Proof: proof}, server, statement.KindEnroll},
		"the victim's key, signed by the server":       {statement.Enroll{Device: pkix(victim), Proof: proof}, server, statement.KindEnroll},
		"a proof of nothing":                           {statement.Enroll{Device: pkix(server)}, server, statement.KindEnroll},
		"a good one of another kind":                   {statement.Enroll{Device: pkix(victim), Proof: proof}, victim, statement.KindKeyAdd},
		"a key that is no key":                         {statement.Enroll{Device: []byte("x"), Proof: proof}, victim, statement.KindEnroll},
		"an SSH key that is none (the token lives on)": {statement.Enroll{Device: pkix(victim), Proof: proof, SSH: []statement.SSHKey{{Line: "ssh-rsa nonsense"}}}, victim, statement.KindEnroll},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.Enroll(b.ctx(), b.sign(c.signed, c.kind, "", c.body)); err == nil {
				t.Fatal("it was accepted")
			}
		})
	}
	s, err := statement.New("SHA256:another node", statement.KindEnroll, "", statement.Enroll{Device: pkix(victim), Proof: proof}, b.clock)
	ok(t, err)
	_, err = b.Enroll(b.ctx(), b.seals(victim, s))
	isKind(t, err, bulwark.KindForbidden)

	_, err = b.Enroll(b.ctx(), b.sign(victim, statement.KindEnroll, "", statement.Enroll{Device: pkix(victim), Proof: proof}))
	ok(t, err) // none of these attempts spent the token
}

// A statement counts for what a registered key signed for this node, once.
func TestSubmitRefuses(t *testing.T) {
	b := open(t)
	p, stranger := b.enrol(), newKey(t)
	create := func(name bulwark.AppName) statement.AppCreate { return statement.AppCreate{Name: name} }
	s, err := statement.New(b.Node(), statement.KindAppCreate, bulwark.NewAppID(), create("shop"), b.clock)
	ok(t, err)
	first := b.seals(p.device, s)
	_, err = b.Submit(b.ctx(), first)
	ok(t, err)

	sameID := *s
	sameID.App, sameID.Body = bulwark.NewAppID(), []byte(`{"name":"other"}`)
	foreign := *s
	foreign.Node, foreign.ID, foreign.App = "SHA256:another node", bulwark.NewStatementID(), bulwark.NewAppID()
	release, err := statement.Seal(statement.ReleasePayloadType, s, p.device)
	ok(t, err)
	var forged map[string]any
	ok(t, json.Unmarshal(b.sign(stranger, statement.KindAppCreate, bulwark.NewAppID(), create("forged")), &forged))
	forged["signatures"].([]any)[0].(map[string]any)["keyid"] = fingerprint(p.device)
	inHisName, err := json.Marshal(forged)
	ok(t, err)

	for name, c := range map[string]struct {
		env  []byte
		want bulwark.Kind
	}{
		// The digest of the padded one is new, so only the statement's id tells that it is old.
		"the same again in other bytes":      {padded(first), bulwark.KindConflict},
		"another one of the same id":         {b.seals(p.device, &sameID), bulwark.KindForbidden},
		"one for another installation":       {b.seals(p.device, &foreign), bulwark.KindForbidden},
		"one of a stranger":                  {b.sign(stranger, statement.KindAppCreate, bulwark.NewAppID(), create("x")), bulwark.KindForbidden},
		"one of a stranger in p's name":      {inHisName, bulwark.KindForbidden},
		"another payload type":               {release, bulwark.KindForbidden},
		"an enrolment":                       {b.sign(p.device, statement.KindEnroll, "", statement.Enroll{}), bulwark.KindInvalid},
		"a kind that is none":                {b.sign(p.device, "app.steal", s.App, struct{}{}), bulwark.KindInvalid},
		"a kind that is none, without app":   {b.sign(p.device, "people.all", "", struct{}{}), bulwark.KindInvalid},
		"a body with more than is known":     {b.sign(p.device, statement.KindAppCreate, bulwark.NewAppID(), map[string]any{"name": "more", "owner": "me"}), bulwark.KindInvalid},
		"an app without an id":               {b.sign(p.device, statement.KindAppCreate, "", create("noid")), bulwark.KindInvalid},
		"an app without a name":              {b.sign(p.device, statement.KindAppCreate, bulwark.NewAppID(), create("")), bulwark.KindInvalid},
		"an app of a name that is taken":     {b.sign(p.device, statement.KindAppCreate, bulwark.NewAppID(), create("shop")), bulwark.KindConflict},
		"an app of an id that is taken":      {b.sign(p.device, statement.KindAppCreate, s.App, create("fresh")), bulwark.KindConflict},
		"an app in a project that is none":   {b.sign(p.device, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "pr", Project: bulwark.NewProjectID()}), bulwark.KindNotFound},
		"something about an app of nobody's": {b.sign(p.device, statement.KindResize, bulwark.NewAppID(), statement.Resize{}), bulwark.KindNotFound},
		"a deploy of nothing":                {b.sign(p.device, statement.KindDeploy, s.App, statement.Deploy{}), bulwark.KindInvalid},
		"a run of nothing":                   {b.sign(p.device, statement.KindRun, s.App, statement.Run{}), bulwark.KindInvalid},
		"a rollback to what never was":       {b.sign(p.device, statement.KindRollback, s.App, statement.Rollback{To: 1}), bulwark.KindNotFound},
		"a destroy that names another app":   {b.sign(p.device, statement.KindAppDestroy, s.App, statement.AppDestroy{Name: "other"}), bulwark.KindInvalid},
		"nothing":                            {nil, bulwark.KindInvalid},
		"more than fits":                     {bytes.Repeat([]byte("{"), statement.MaxSize+1), bulwark.KindTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Submit(b.ctx(), c.env)
			isKind(t, err, c.want)
		})
	}
	// The caller whose answer was lost asks once more; it took effect once.
	r1, err := b.Submit(b.ctx(), first)
	ok(t, err)
	if r1.Seq != 2 { // 1 is the enrolment
		t.Fatalf("it stands in the book at %d", r1.Seq)
	}
}

// A replay in other bytes is stopped by the statement's id even where its effect would be harmless to repeat.
func TestReplayInOtherBytes(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	env := b.sign(p.device, statement.KindDomainAdd, app, statement.Domain{Host: "shop.example.net"})
	_, err := b.Submit(b.ctx(), env)
	ok(t, err)
	b.must(p, statement.KindDomainRemove, app, statement.Domain{Host: "shop.example.net"})
	_, err = b.Submit(b.ctx(), padded(env))
	isKind(t, err, bulwark.KindForbidden)
	if hosts, err := b.Hosts(b.ctx(), app); err != nil || len(hosts) != 1 {
		t.Fatalf("hosts %v, %v", hosts, err)
	}
}

// A key that was removed signs nothing any more and never comes back; a key cannot take itself away.
func TestRemovedKey(t *testing.T) {
	b := open(t)
	p, other := b.enrol(), b.enrol()
	app := b.app(p, "shop")
	second := newKey(t)
	b.must(p, statement.KindKeyAdd, "", b.addDevice(p, second))

	b.refused(p, bulwark.KindInvalid, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(p.device)})
	b.refused(p, bulwark.KindNotFound, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: "SHA256:none"})
	b.refused(p, bulwark.KindInvalid, statement.KindKeyAdd, "", statement.KeyAdd{})
	b.refused(p, bulwark.KindInvalid, statement.KindKeyAdd, "", statement.KeyAdd{SSH: &statement.SSHKey{Line: line(p.ssh)}, Device: pkix(second)})
	b.refused(other, bulwark.KindConflict, statement.KindKeyAdd, "", b.addDevice(other, p.device))
	b.refused(other, bulwark.KindConflict, statement.KindKeyAdd, "", b.addSSH(other, p.ssh))
	b.must(p, statement.KindKeyAdd, "", b.addDevice(p, second)) // one's own again is no error

	nonce := b.nonce(app)
	for _, f := range []string{fingerprint(p.device), sshFingerprint(p.ssh)} {
		_, err := b.Submit(b.ctx(), b.sign(second, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: f}))
		ok(t, err)
	}
	b.refused(p, bulwark.KindForbidden, statement.KindResize, app, statement.Resize{})
	_, err := b.Push(b.ctx(), app, cert{name: "shop", nonce: nonce, new: commit()}.signed(t, p.ssh))
	isKind(t, err, bulwark.KindForbidden)
	for kind, f := range map[string]string{"device": fingerprint(p.device), "ssh": sshFingerprint(p.ssh)} {
		_, err := b.KeyOwner(b.ctx(), kind, f)
		isKind(t, err, bulwark.KindForbidden)
	}
	again := &person{device: second}
	for _, body := range []statement.KeyAdd{b.addDevice(again, p.device), b.addSSH(again, p.ssh)} {
		_, err := b.Submit(b.ctx(), b.sign(second, statement.KindKeyAdd, "", body))
		isKind(t, err, bulwark.KindConflict)
	}
	if owner, err := b.KeyOwner(b.ctx(), "device", fingerprint(second)); err != nil || owner.Person != p.id {
		t.Fatalf("owner %s, %v", owner, err)
	}
	_, err = b.KeyOwner(b.ctx(), "ssh", fingerprint(second)) // a device key is no SSH key
	isKind(t, err, bulwark.KindForbidden)
}

// Public keys are public. Somebody who registers another's first would have what that one pushes count as theirs, and keep them from
// registering it: so a key signs that it is to be registered, here and by whom.
func TestForeignKey(t *testing.T) {
	b, elsewhere := open(t), open(t)
	thief, victim := b.enrol(), &person{device: newKey(t), ssh: newSSH(t)}
	good := b.proven(victim.ssh, victim.device) // what the victim said, which is no secret
	for name, k := range map[string]statement.SSHKey{
		"without a word of the key's":         {Line: line(victim.ssh)},
		"the key's word for its owner":        good,
		"the key's word for another place":    elsewhere.proven(victim.ssh, thief.device),
		"the word of a key of the thief's":    {Line: line(victim.ssh), Proof: b.proven(thief.ssh, thief.device).Proof},
		"a signature that is longer than any": {Line: line(victim.ssh), Proof: good.Proof + strings.Repeat("\n", 20<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			b.refused(thief, bulwark.KindForbidden, statement.KindKeyAdd, "", statement.KeyAdd{SSH: &k})
			der, secret := pkix(victim.device), []byte(rand.Text())
			ok(t, b.AddToken(b.ctx(), secret))
			if k != good { // neither does one enrol with it
				_, err := b.Enroll(b.ctx(), b.sign(victim.device, statement.KindEnroll, "", statement.Enroll{Device: der, Proof: enrol.Proof(secret, der), SSH: []statement.SSHKey{k}}))
				isKind(t, err, bulwark.KindForbidden)
			}
		})
	}
	b.refused(thief, bulwark.KindForbidden, statement.KindKeyAdd, "", statement.KeyAdd{Device: pkix(victim.device)})
	b.refused(thief, bulwark.KindForbidden, statement.KindKeyAdd, "", statement.KeyAdd{Device: pkix(victim.device), Proof: b.addDevice(thief, thief.device).Proof})
	secret := []byte(rand.Text())
	ok(t, b.AddToken(b.ctx(), secret))
	r, err := b.Enroll(b.ctx(), b.enrolment(victim, secret))
	ok(t, err)
	if owner, err := b.KeyOwner(b.ctx(), "ssh", sshFingerprint(victim.ssh)); err != nil || owner.Person != r.Person {
		t.Fatalf("the key is %v's, %v", owner, err)
	}
}

// The SSH keys that are taken are those whose signatures mean something today.
func TestSSHKeys(t *testing.T) {
	b := open(t)
	p := b.enrol()
	for name, c := range map[string]struct {
		line string
		want bulwark.Kind
	}{
		"an empty line": {"", bulwark.KindInvalid},
		"nonsense":      {"ssh-ed25519 AAAA", bulwark.KindInvalid},
		"DSA": {"ssh-dss AAAAB3NzaC1kc3MAAACBAOyTiLd4PZYMFxHQLoTP7b2cJb0iqQvdSoLmO0Nnn1rF9lPyoNB9MbZHCVkrLkfqz7q1pGwVyqBQIpPcNcVvlCUyN2W4Lee2b6RGEUhBFHSsFcPGJBUUr1aIOzmNGbhfVEYA4BBTQ6nWhgJTGCUkp8uNNcNMvXrbKBuMQpAl",
			bulwark.KindInvalid},
		"one's own again": {line(p.ssh), ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := b.proven(p.ssh, p.device)
			k.Line = c.line
			_, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindKeyAdd, "", statement.KeyAdd{SSH: &k}))
			if c.want == "" {
				ok(t, err)
				return
			}
			isKind(t, err, c.want)
		})
	}
}

// A host name has one owner, and nobody claims the names below the installation's own domain.
func TestHosts(t *testing.T) {
	b := open(t)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	b.must(p, statement.KindDomainAdd, shop, statement.Domain{Host: "www.example.net"})
	b.must(p, statement.KindDomainAdd, shop, statement.Domain{Host: "www.example.net"}) // one's own again
	b.refused(p, bulwark.KindConflict, statement.KindDomainAdd, blog, statement.Domain{Host: "www.example.net"})
	for _, host := range []bulwark.HostName{"apps.example.org", "blog.apps.example.org", "a.b.apps.example.org", ""} {
		b.refused(p, bulwark.KindInvalid, statement.KindDomainAdd, shop, statement.Domain{Host: host})
	}
	// The same name in other letters is the same name.
	_, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindDomainAdd, blog, map[string]string{"host": "WWW.Example.NET."}))
	isKind(t, err, bulwark.KindConflict)
	_, err = b.Submit(b.ctx(), b.sign(p.device, statement.KindDomainAdd, blog, map[string]string{"host": "BLOG.apps.EXAMPLE.org"}))
	isKind(t, err, bulwark.KindInvalid)

	b.must(p, statement.KindDomainRemove, blog, statement.Domain{Host: "www.example.net"}) // not blog's: nothing happens
	want := []bulwark.HostName{"shop.apps.example.org", "www.example.net"}
	if got, err := b.Hosts(b.ctx(), shop); err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Fatalf("hosts of shop: %v, %v", got, err)
	}
	b.must(p, statement.KindDomainRemove, shop, statement.Domain{Host: "www.example.net"})
	b.must(p, statement.KindDomainAdd, blog, statement.Domain{Host: "www.example.net"})
}

// Who does not run the installation has the DNS say that a host name is theirs. Who has it already, and is not named there, loses it; what the
// DNS says to another installation, or of another organisation, is worth nothing.
func TestProvenHosts(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	place := func(name bulwark.OrgName) (statement.Place, *person, bulwark.AppID) {
		at, project := b.org(operator, name)
		owner, app := b.invite(operator, at, bulwark.Owner), bulwark.NewAppID()
		b.must(owner, statement.KindAppCreate, app, statement.AppCreate{Name: bulwark.AppName(name), Project: project})
		return at, owner, app
	}
	acme, ana, shop := place("acme")
	evil, eve, trap := place("evil")
	own := b.app(operator, "own")
	const host = "www.example.net"
	word := func(at statement.Place) string { return ledger.ProofWord(b.Node(), at.Org) }
	claim := func(by *person, app bulwark.AppID, words ...string) error {
		r, err := b.SubmitNamed(b.ctx(), b.sign(by.device, statement.KindDomainAdd, app, statement.Domain{Host: host}), ledger.Named{Host: host, Words: words, Asked: true})
		if err == nil && r.From != "" && r.From != shop && r.From != own {
			t.Fatal("taken from", r.From)
		}
		return err
	}
	serves := func(want bulwark.AppID) {
		t.Helper()
		for _, app := range []bulwark.AppID{shop, trap, own} {
			got, err := b.Hosts(b.ctx(), app)
			ok(t, err)
			if slices.Contains(got, host) != (app == want) {
				t.Fatalf("%s has %v", app, got)
			}
		}
	}
	refused := func(err error, kind bulwark.Kind, hint string) {
		t.Helper()
		isKind(t, err, kind)
		u, is := errors.AsType[*ledger.Unproven](err)
		e, _ := errors.AsType[*bulwark.Error](err)
		if !is || u.Host != host || !strings.Contains(e.Hint, hint) {
			t.Fatalf("%v, %q", err, e.Hint)
		}
	}
	// Nobody looked.
	_, err := b.Submit(b.ctx(), b.sign(eve.device, statement.KindDomainAdd, trap, statement.Domain{Host: host}))
	refused(err, bulwark.KindForbidden, "_bulwark.www.example.net TXT \""+word(evil)+"\"")
	// What is there is somebody else's, or of another installation.
	refused(claim(eve, trap), bulwark.KindForbidden, word(evil))
	refused(claim(eve, trap, word(acme), ledger.ProofWord("SHA256:another", evil.Org), "bulwark=", strings.ToUpper(word(evil))), bulwark.KindForbidden, word(evil))
	_, err = b.SubmitNamed(b.ctx(), b.sign(eve.device, statement.KindDomainAdd, trap, statement.Domain{Host: host}), ledger.Named{Host: "mine.example.net", Words: []string{word(evil)}, Asked: true})
	refused(err, bulwark.KindForbidden, word(evil))
	serves("")
	ok(t, claim(ana, shop, "v=spf1 -all", word(acme)))
	ok(t, claim(ana, shop)) // one's own again
	serves(shop)
	// The record that is there protects, whatever else is there.
	refused(claim(eve, trap, word(evil), word(acme)), bulwark.KindConflict, "another's")
	refused(claim(operator, own), bulwark.KindConflict, word(first()))
	serves(shop)
	// The domain was sold, or somebody else's claim was never theirs.
	ok(t, claim(eve, trap, word(evil)))
	serves(trap)
	b.must(eve, statement.KindDomainRemove, trap, statement.Domain{Host: host})
	ok(t, claim(operator, own))
	serves(own)
	ok(t, claim(ana, shop, word(acme)))
	serves(shop)
}

// A pattern is proven by the name below it, stands for what nobody else has proven, and never for the installation's own names.
func TestPatterns(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	ana, shop, own := b.invite(operator, at, bulwark.Owner), bulwark.NewAppID(), b.app(operator, "own")
	b.must(ana, statement.KindAppCreate, shop, statement.AppCreate{Name: "shop", Project: project})
	claim := func(by *person, app bulwark.AppID, host bulwark.HostName, orgs ...bulwark.OrgID) error {
		n := ledger.Named{Host: host, Asked: true}
		for _, o := range orgs {
			n.Words = append(n.Words, ledger.ProofWord(b.Node(), o))
		}
		_, err := b.SubmitNamed(b.ctx(), b.sign(by.device, statement.KindDomainAdd, app, statement.Domain{Host: host}), n)
		return err
	}
	if got := ledger.ProofName("*.example.net"); got != "_bulwark.example.net" {
		t.Fatal(got)
	}
	isKind(t, claim(ana, shop, "*.example.net"), bulwark.KindForbidden)
	ok(t, claim(ana, shop, "*.example.net", at.Org))
	// Not even who runs the installation takes a name out of it without the DNS's word.
	isKind(t, claim(operator, own, "www.example.net"), bulwark.KindConflict)
	isKind(t, claim(operator, own, "*.example.net"), bulwark.KindConflict)
	ok(t, claim(operator, own, "www.example.net", bulwark.FirstOrg))
	ok(t, claim(operator, own, "a.b.example.net")) // further below it is free
	ok(t, claim(ana, shop, "mail.example.net", at.Org))
	for _, host := range []bulwark.HostName{"*.apps.example.org", "*.a.apps.example.org", "*.example.org"} {
		isKind(t, claim(operator, own, host, bulwark.FirstOrg), bulwark.KindInvalid)
	}
	for _, text := range []string{"*", "*.org", "*.*.example.net", "a.*.example.net", "www*.example.net"} {
		_, err := b.Submit(b.ctx(), b.sign(operator.device, statement.KindDomainAdd, own, map[string]string{"host": text}))
		isKind(t, err, bulwark.KindInvalid)
	}
}

// A destroyed app is gone for good: its id never comes back, its name may pass on, and with the name goes nothing else.
func TestDestroyedApp(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := b.app(p, "shop")
	b.set(p, app, 0, "TOKEN", "secret")
	b.must(p, statement.KindDomainAdd, app, statement.Domain{Host: "www.example.net"})
	bundle, _ := b.deployed(p, app, "shop")
	_, err := b.launches(bundle)
	ok(t, err)
	late := b.nonce(app)

	b.must(p, statement.KindAppDestroy, app, statement.AppDestroy{Name: "shop"})
	_, err = b.launches(bundle)
	isKind(t, err, bulwark.KindNotFound)
	_, err = b.Push(b.ctx(), app, cert{name: "shop", nonce: late, new: commit()}.signed(t, p.ssh))
	isKind(t, err, bulwark.KindNotFound)
	_, err = b.Nonce(b.ctx(), app)
	isKind(t, err, bulwark.KindNotFound)
	isKind(t, b.Promote(b.ctx(), app, 1), bulwark.KindNotFound)
	b.refused(p, bulwark.KindNotFound, statement.KindConfigSet, app, statement.ConfigSet{Base: 1})
	b.refused(p, bulwark.KindConflict, statement.KindAppCreate, app, statement.AppCreate{Name: "again"})

	next := b.app(p, "shop")
	if hosts, err := b.Hosts(b.ctx(), next); err != nil || len(hosts) != 1 {
		t.Fatalf("the new app has the hosts %v, %v", hosts, err)
	}
	_, err = b.launches(bundle)
	isKind(t, err, bulwark.KindNotFound)
	a1, err := b.App(b.ctx(), next)
	ok(t, err)
	if a1.Block != 2 {
		t.Fatalf("the new app has the id block %d: ids of one app are never another's", a1.Block)
	}
}

// A push certificate is good for one push to one app, by a registered key, within an hour.
func TestPush(t *testing.T) {
	b := open(t)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	nonce := b.nonce(shop)
	good := cert{name: "shop", nonce: nonce, new: commit()}.signed(t, p.ssh)
	other := b.nonce(shop)

	for name, c := range map[string]struct {
		app  bulwark.AppID
		cert []byte
		want bulwark.Kind
	}{
		"signed for another app":      {blog, good, bulwark.KindForbidden},
		"with a nonce of another app": {blog, cert{name: "blog", nonce: nonce, new: commit()}.signed(t, p.ssh), bulwark.KindForbidden},
		"with a nonce of nobody's":    {shop, cert{name: "shop", nonce: "1780315200-" + strings.Repeat("0", 40), new: commit()}.signed(t, p.ssh), bulwark.KindForbidden},
		"of a stranger":               {shop, cert{name: "shop", nonce: nonce, new: commit()}.signed(t, newSSH(t)), bulwark.KindForbidden},
		"of an app that is none":      {bulwark.NewAppID(), good, bulwark.KindNotFound},
		"altered":                     {shop, bytes.Replace(good, []byte("refs/heads/main"), []byte("refs/heads/evil"), 1), bulwark.KindForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Push(b.ctx(), c.app, c.cert)
			isKind(t, err, c.want)
		})
	}
	first, err := b.Push(b.ctx(), shop, good)
	ok(t, err)
	again, err := b.Push(b.ctx(), shop, good)
	ok(t, err)
	if again.Seq != first.Seq || again.Digest != first.Digest {
		t.Fatal("the same certificate was written down twice")
	}
	// The armour may be followed by anything, so the same signature has many digests: the nonce stops the replay.
	_, err = b.Push(b.ctx(), shop, append(good, "\n"...))
	isKind(t, err, bulwark.KindForbidden)

	late := cert{name: "shop", nonce: other, new: commit()}.signed(t, p.ssh)
	b.clock = b.clock.Add(time.Hour + time.Second)
	_, err = b.Push(b.ctx(), shop, late)
	isKind(t, err, bulwark.KindForbidden)
}

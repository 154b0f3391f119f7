package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/witness"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// These tests take every endpoint that is registered and changes something, or shows a secret. An endpoint of which they know
// no call that succeeds is a failure: there is no list of exceptions, and there shall be none.

// plainNode is a node that accepts every document, or refuses each.
type plainNode struct {
	mu       sync.Mutex // guards what follows
	refuse   bool
	receipts map[bulwark.Digest]nodeapi.Receipt
	chain    statement.ChainRef
	asked    int // verbs that have an effect
	released *nodeapi.Released
	missing  int        // approvals that the release lacks
	until    *time.Time // of a grace, if one is given
	promoted uint64
	graces   []nodeapi.Grace
	logKey   string // verifies checkpoints
}

const ana = bulwark.PersonID("p_00000000000000000000000008")

func (n *plainNode) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	refuse := func(kind bulwark.Kind) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer(&bulwark.Error{Kind: kind, Message: "The node does not like it."})
	}
	var doc nodeapi.Document
	b, _ := io.ReadAll(r.Body)
	switch verb := strings.TrimPrefix(r.URL.Path, "/v1/"); verb {
	case "whose":
		answer(struct{}{})
	case "submit", "enroll", "reveal", "run":
		n.asked++
		if n.refuse {
			refuse(bulwark.KindConflict)
			return
		}
		_ = json.Unmarshal(b, &doc)
		st := unverified(doc.Envelope)
		n.chain.Seq++
		at := n.chain
		at.Hash = bulwark.Sum([]byte(fmt.Sprint(at.Seq)))
		rec := nodeapi.Receipt{Digest: bulwark.Sum(doc.Envelope), Kind: st.Kind, Person: ana, Key: "SHA256:ana", App: st.App, Body: st.Body, Chain: &at}
		if st.Kind == statement.KindConfigSet {
			rec.Config = &statement.ConfigRef{Revision: 1}
		}
		if st.Kind == statement.KindProtect || st.Kind == statement.KindProtectApprove {
			rec.Protection = &statement.Protection{Approvals: 1}
		}
		switch st.Kind {
		case statement.KindAppDestroy:
			rec.Until = n.until
		case statement.KindAppRestore:
			rec.Promoted = n.promoted
		case statement.KindProjectRotate:
			rec.Rotated = 2
		}
		n.receipts[rec.Digest] = rec
		switch verb {
		case "reveal":
			answer(nodeapi.Sealed{Sealed: []byte("sealed")})
		case "run":
			answer(nodeapi.Ran{Welcome: []byte("{}")})
		default:
			answer(rec)
		}
	case "certificate.retry": // it changes nothing that anybody has to sign for
		answer(struct{}{})
	case "release":
		answer(n.released)
	case "graces":
		answer(n.graces)
	case "promoted":
		in := nodeapi.Promoted{}
		_ = json.Unmarshal(b, &in)
		in.Generation = n.promoted
		answer(in)
	case "approvals":
		answer(nodeapi.Approvals{Missing: n.missing})
	case "checkpointed":
		answer(nodeapi.Checkpointed{Size: 7, Key: n.logKey})
	case "receipt":
		var in nodeapi.Accepted
		_ = json.Unmarshal(b, &in)
		if rec, ok := n.receipts[in.Digest]; ok {
			answer(rec)
			return
		}
		refuse(bulwark.KindNotFound)
	default:
		refuse(bulwark.KindUnavailable)
	}
}

// bed is a server with a node, an app and a release, without what goes on in the background.
type bed struct {
	*Server
	t      *testing.T
	node   *plainNode
	api    *api.API
	app    bulwark.AppID
	device ed25519.PrivateKey
	log    bytes.Buffer
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, node: &plainNode{receipts: map[bulwark.Digest]nodeapi.Receipt{}}, app: bulwark.NewAppID()}
	_, b.device, _ = ed25519.GenerateKey(rand.Reader)
	dir := t.TempDir()
	nothing := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }
	for name, h := range map[string]http.HandlerFunc{"node": b.node.serve, "edge": nothing, "posture": nothing} {
		socket, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		srv := &httptest.Server{Listener: socket, Config: &http.Server{Handler: h}}
		srv.Start()
		t.Cleanup(srv.Close)
	}
	var err error
	b.Server, err = open(t.Context(), Config{Dir: dir, NodeSocket: filepath.Join(dir, "node"), EdgeSocket: filepath.Join(dir, "edge"), Posture: filepath.Join(dir, "posture"), Domain: "localhost",
		Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	api.Shape()
	b.api = api.New("test", b.Server.log, func(r *http.Request) (access.Actor, error) {
		a := access.Actor{Person: bulwark.PersonID(r.Header.Get("X-Person"))}
		if a.Person == ana {
			a.Grants = []right.Grant{{Org: bulwark.FirstOrg, Role: bulwark.Owner}}
		}
		return a, nil
	}, b.decide)
	b.api.Record(b.record)
	b.endpoints(b.api)
	b.fill()
	return b
}

// fill makes the app shop with a release.
func (b *bed) fill() {
	b.t.Helper()
	full := &nodeapi.Released{Release: statement.Release{Project: bulwark.FirstProject, App: b.app, Name: "shop", Generation: 1, Image: bulwark.Sum(nil), Provenance: bulwark.Sum(nil),
		Cause: statement.Cause{Kind: statement.KindPush, Person: ana, Digest: bulwark.Sum(nil)}, Plan: bulwark.Plan{
			Processes: map[bulwark.ProcessType]bulwark.Command{"web": {Argv: []string{"/web"}}},
			Cron:      []bulwark.CronJob{{Name: "nightly", Schedule: "0 3 * * *", Command: bulwark.Command{Argv: []string{"/job"}}}}}}}
	err := b.db.Tx(b.t.Context(), func(tx *sql.Tx) error {
		return app.Insert(tx, app.App{ID: b.app, Project: bulwark.FirstProject, Name: "shop", Created: time.Now()})
	})
	if err == nil {
		err = release.Insert(b.t.Context(), b.db, full, "")
	}
	if err == nil {
		err = b.db.Tx(b.t.Context(), func(tx *sql.Tx) error { return app.SetPromoted(tx, b.app, 1) })
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// signed is the body of a call with a statement.
func (b *bed) signed(kind statement.Kind, about bulwark.AppID, body any) []byte {
	b.t.Helper()
	st, err := statement.New("node", kind, about, body, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	env, err := statement.Seal(statement.PayloadType, st, b.device)
	if err != nil {
		b.t.Fatal(err)
	}
	out, _ := json.Marshal(client.Signed{Envelope: env})
	return out
}

// request is a call that succeeds; more is what comes behind the path.
type request struct {
	body []byte
	more string
}

// call returns a call of an endpoint that succeeds; false if none is known.
func (b *bed) call(id string) (request, bool) {
	key := statement.KeyRemove{Fingerprint: "SHA256:x"}
	content := []byte("archive")
	switch id {
	case "login":
		return request{body: b.signed(statement.KindEnroll, "", statement.Enroll{Name: "Ana"})}, true
	case "add-key":
		return request{body: b.signed(statement.KindKeyAdd, "", statement.KeyAdd{SSH: &statement.SSHKey{Line: "ssh-ed25519 x"}})}, true
	case "remove-key":
		return request{body: b.signed(statement.KindKeyRemove, "", key)}, true
	case "set-registry":
		return request{body: b.signed(statement.KindRegistryAllow, "", statement.Registry{Host: "images.example.org"})}, true
	case "set-patch":
		return request{body: b.signed(statement.KindPatchAdd, "", bulwark.Patch{Name: "cve-2026-1", Rules: "SecAction", Until: time.Now().Add(time.Hour)})}, true
	case "create-app":
		return request{body: b.signed(statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "other"})}, true
	case "destroy-app":
		return request{body: b.signed(statement.KindAppDestroy, b.app, statement.AppDestroy{Name: "shop"})}, true
	case "restore-app":
		return request{body: b.signed(statement.KindAppRestore, b.app, statement.AppRestore{Name: "shop"})}, true
	case "change-app":
		return request{body: b.signed(statement.KindConfigSet, b.app, statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{"A": []byte("x")}})}, true
	case "set-app":
		return request{body: b.signed(statement.KindDomainAdd, b.app, statement.Domain{Host: "shop.example.org"})}, true
	case "upload-source":
		return request{body: content, more: "?digest=" + string(bulwark.Sum(content))}, true
	case "reveal-config":
		return request{body: b.signed(statement.KindConfigReveal, b.app, statement.ConfigReveal{Name: "A"})}, true
	case "run-app":
		return request{body: b.signed(statement.KindRun, b.app, statement.Run{Argv: []string{"ls"}, Detach: true})}, true
	case "scale-app":
		return request{body: []byte(`{"formation":{"web":2}}`)}, true
	case "create-org":
		return request{body: b.signed(statement.KindOrgCreate, "", statement.OrgCreate{Org: bulwark.NewOrgID(), Name: "acme"})}, true
	case "create-project":
		return request{body: b.signed(statement.KindProjectCreate, "", statement.ProjectCreate{Project: bulwark.NewProjectID(), Org: bulwark.FirstOrg, Name: "blog"})}, true
	case "rotate-project":
		return request{body: b.signed(statement.KindProjectRotate, "", statement.ProjectRotate{Project: bulwark.FirstProject})}, true
	case "change-members":
		return request{body: b.signed(statement.KindMemberSet, "", statement.MemberSet{Place: statement.Place{Org: bulwark.FirstOrg}, Person: ana, Role: bulwark.Owner})}, true
	case "change-project-members":
		return request{body: b.signed(statement.KindMemberSet, "", statement.MemberSet{Place: statement.Place{Org: bulwark.FirstOrg, Project: bulwark.FirstProject}, Person: ana, Role: bulwark.Viewer})}, true
	case "leave-org":
		return request{body: b.signed(statement.KindMemberRemove, "", statement.MemberRemove{Place: statement.Place{Org: bulwark.FirstOrg}, Person: ana})}, true
	case "change-tokens":
		return request{body: b.signed(statement.KindTokenRevoke, "", statement.TokenRevoke{Token: bulwark.NewTokenID()})}, true
	case "approve-release":
		return request{body: b.signed(statement.KindApprove, b.app, statement.Approve{Generation: 1, Release: bulwark.Sum(nil)})}, true
	case "protect-app":
		return request{body: b.signed(statement.KindProtect, b.app, statement.Protect{Approvals: 1})}, true
	case "approve-protection":
		return request{body: b.signed(statement.KindProtectApprove, b.app, statement.ProtectApprove{Approvals: 1})}, true
	case "run-probes":
		return request{body: []byte(`{"only":["ISO"]}`)}, true
	case "witness-audit":
		return request{body: b.witnessed()}, true
	case "retry-certificate":
		if err := b.db.Tx(b.t.Context(), func(tx *sql.Tx) error {
			return app.AddDomain(tx, &app.App{ID: b.app, Project: bulwark.FirstProject}, "shop.example.org")
		}); err != nil {
			b.t.Fatal(err)
		}
		return request{body: []byte(`{"host":"shop.example.org"}`)}, true
	case "restart-app", "run-cron", "cancel-build":
		return request{}, true
	}
	return request{}, false
}

// witnessed is what a witness signed of a log of seven entries.
func (b *bed) witnessed() []byte {
	secret, log, err := note.GenerateKey(rand.Reader, "bulwark.dev/audit/x")
	if err != nil {
		b.t.Fatal(err)
	}
	b.node.logKey = log
	signer, err := note.NewSigner(secret)
	if err != nil {
		b.t.Fatal(err)
	}
	checkpoint, err := note.Sign(&note.Note{Text: "bulwark.dev/audit/x\n7\nE99jxuw4n3Mt/+Vx1q4BVPCVbgF8eKQmLH3/TbVPGjA=\n"}, signer)
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := witness.Generate("witness.example.org")
	if err != nil {
		b.t.Fatal(err)
	}
	signed, err := witness.Sign(checkpoint, log, key)
	if err != nil {
		b.t.Fatal(err)
	}
	body, err := json.Marshal(client.Witnessed{Witness: key.Public, Note: signed})
	if err != nil {
		b.t.Fatal(err)
	}
	return body
}

// nothingToDo are the endpoints whose call cannot succeed here, because what they would end is not under way.
var nothingToDo = []string{"cancel-build"}

func (b *bed) do(op api.Op, in request, person bulwark.PersonID) *httptest.ResponseRecorder {
	path := strings.NewReplacer("{app}", "shop", "{job}", "nightly", "{org}", string(bulwark.FirstOrg), "{project}", string(bulwark.FirstProject), "{number}", "1").Replace(op.Path)
	r := httptest.NewRequest(op.Method, "/v1"+path+in.more, bytes.NewReader(in.body))
	r.RemoteAddr = "192.0.2.7:1234"
	r.Header.Set("X-Person", string(person))
	if op.Method == http.MethodPost && in.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	withOrigin(b.api.Handler()).ServeHTTP(w, r)
	return w
}

func (b *bed) entries() []audit.Record {
	b.t.Helper()
	all, err := audit.List(b.t.Context(), b.db.Reader(), audit.Query{Most: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// everyChange calls f for each endpoint that changes something, with a bed of its own.
func everyChange(t *testing.T, f func(t *testing.T, b *bed, op api.Op, in request)) {
	for _, op := range newBed(t).api.Operations() {
		if !op.Changes() {
			continue
		}
		t.Run(op.ID, func(t *testing.T) {
			b := newBed(t)
			in, ok := b.call(op.ID)
			if !ok {
				t.Fatal("no call of this endpoint is known here that succeeds; write one in call")
			}
			f(t, b, op, in)
		})
	}
}

func TestEveryChangeIsRecorded(t *testing.T) {
	everyChange(t, func(t *testing.T, b *bed, op api.Op, in request) {
		w := b.do(op, in, ana)
		if w.Code/100 != 2 && !slices.Contains(nothingToDo, op.ID) {
			t.Fatalf("it answered %d %s", w.Code, w.Body)
		}
		all := b.entries()
		if len(all) == 0 || strings.Contains(b.log.String(), "left no audit entry of its own") {
			t.Fatalf("it left %d entries of its own; %s", len(all), &b.log)
		}
		for _, e := range all {
			if e.Actor != ana || e.From != "192.0.2.7" || e.Action == "" || e.Resource == "" || e.Outcome == "" {
				t.Errorf("it left %+v", e)
			}
		}
		// What the node accepted has its place in the node's chain.
		if asked := b.node.asked > 0; asked != slices.ContainsFunc(all, func(e audit.Record) bool { return e.Chain != nil }) {
			t.Errorf("the node was asked: %t; it left %+v", asked, all)
		}
	})
}

func TestEveryRefusalIsRecorded(t *testing.T) {
	everyChange(t, func(t *testing.T, b *bed, op api.Op, in request) {
		if op.Action != access.Open {
			if w := b.do(op, in, ""); w.Code != http.StatusUnauthorized {
				t.Fatalf("a stranger was answered %d %s", w.Code, w.Body)
			}
			all := b.entries()
			if len(all) != 1 || all[0].Outcome != audit.Refused || all[0].Actor != "" || all[0].From != "192.0.2.7" || all[0].Action != string(op.Action) {
				t.Errorf("of a stranger there is %+v", all)
			}
			if b.node.asked > 0 {
				t.Error("the node was asked for a stranger")
			}
		}
		b.node.refuse = true
		before := len(b.entries())
		w := b.do(op, in, ana)
		if b.node.asked == 0 {
			return // it asks nobody
		}
		all := b.entries()
		if w.Code/100 == 2 || len(all) == before || all[0].Outcome != audit.Refused || all[0].Actor != ana || !strings.Contains(all[0].Detail, "The node does not like it.") {
			t.Errorf("it answered %d; %+v", w.Code, all)
		}
	})
}

// With a full disk nothing is done, and the person is told why.
func TestEveryChangeNeedsItsEntry(t *testing.T) {
	everyChange(t, func(t *testing.T, b *bed, op api.Op, in request) {
		b.fillDisk()
		w := b.do(op, in, ana)
		var e bulwark.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusServiceUnavailable || !strings.Contains(e.Message, "nothing was changed") || !strings.Contains(e.Hint, "disk is not full") {
			t.Errorf("it answered %d %s", w.Code, w.Body)
		}
		if b.node.asked > 0 {
			t.Error("the node was asked")
		}
	})
}

// fillDisk leaves the store no room for another row.
func (b *bed) fillDisk() {
	b.t.Helper()
	err := b.db.Tx(b.t.Context(), func(tx *sql.Tx) error {
		var pages int
		if err := tx.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
			return err
		}
		_, err := tx.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
		return err
	})
	for i := 0; err == nil && i < 10_000; i++ {
		err = b.db.Tx(b.t.Context(), func(tx *sql.Tx) error {
			return audit.Write(context.Background(), tx, audit.Entry{Action: "x", Resource: "platform", Outcome: audit.Done})
		})
	}
	if bulwark.KindOf(err) != bulwark.KindUnavailable {
		b.t.Fatal(err)
	}
}

// A developer of two apps has a value of the one revealed at the other's address: the node would give it, and the record would name the
// wrong app. The node is not asked.
func TestRevealOfAnotherApp(t *testing.T) {
	b := newBed(t)
	for _, op := range b.api.Operations() {
		if op.ID != "reveal-config" {
			continue
		}
		other := b.signed(statement.KindConfigReveal, bulwark.NewAppID(), statement.ConfigReveal{Name: "A"})
		if w := b.do(op, request{body: other}, ana); w.Code != http.StatusForbidden || b.node.asked != 0 {
			t.Errorf("it answered %d, and asked the node %d times", w.Code, b.node.asked)
		}
		if w := b.do(op, request{body: b.signed(statement.KindRun, b.app, statement.Run{Argv: []string{"ls"}, Detach: true})}, ana); w.Code != http.StatusForbidden || b.node.asked != 0 {
			t.Errorf("it took another kind: %d", w.Code)
		}
		return
	}
	t.Error("there is no endpoint to reveal")
}

package server

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// asks makes a call of an endpoint, of the app shop.
func (b *bed) asks(id string, in request) (int, string) {
	b.t.Helper()
	i := slices.IndexFunc(b.api.Operations(), func(op api.Op) bool { return op.ID == id })
	if i < 0 {
		b.t.Fatalf("there is no endpoint %s", id)
	}
	w := b.do(b.api.Operations()[i], in, ana)
	return w.Code, w.Body.String()
}

func (b *bed) goes(id string, in request) string {
	b.t.Helper()
	code, body := b.asks(id, in)
	if code/100 != 2 {
		b.t.Fatalf("%s answers %d %s", id, code, body)
	}
	return body
}

func (b *bed) wanted() (n int) {
	b.t.Helper()
	rows, err := instance.Rows(b.t.Context(), b.db.Reader(), b.app)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range rows {
		if r.Want {
			n++
		}
	}
	return n
}

// graced is a bed whose app has a domain, a variable and two instances, and was destroyed with a grace.
func gracedBed(t *testing.T) *bed {
	t.Helper()
	b := newBed(t)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	b.node.until, b.node.promoted, b.node.graces = &until, 1, []nodeapi.Grace{{App: b.app, Until: until}}
	for _, id := range []string{"set-app", "change-app", "scale-app"} {
		in, _ := b.call(id)
		b.goes(id, in)
	}
	if n := b.wanted(); n != 2 {
		t.Fatalf("%d instances are wanted", n)
	}
	in, _ := b.call("destroy-app")
	var v client.App
	if err := json.Unmarshal([]byte(b.goes("destroy-app", in)), &v); err != nil || v.State != client.StateDestroyed || v.Until == nil || !v.Until.Equal(until) {
		t.Fatalf("it answers %+v, %v", v, err)
	}
	return b
}

// A destroyed app is shown with the time that it has; whatever is asked of it beside that says what happened, and comes back.
func TestDestroyAndRestore(t *testing.T) {
	b := gracedBed(t)
	if n := b.wanted(); n != 0 {
		t.Errorf("%d of its instances go on", n)
	}
	for _, id := range []string{"get-app", "list-apps"} {
		if body := b.goes(id, request{}); !strings.Contains(body, `"state":"destroyed"`) || !strings.Contains(body, `"until":"`+b.node.until.Format(time.RFC3339)) {
			t.Errorf("%s says %s", id, body)
		}
	}
	asked := b.node.asked
	for _, op := range b.api.Operations() {
		if !strings.Contains(op.Path, "{app}") || slices.Contains([]string{"get-app", "destroy-app", "restore-app", "list-app-audit"}, op.ID) {
			continue
		}
		in, _ := b.call(op.ID)
		if op.ID == "watch-operation" {
			continue // its path names an operation that is none
		}
		if op.ID == "upload-source" {
			in.body = []byte("archive")
		}
		if code, body := b.asks(op.ID, in); code != http.StatusNotFound || !strings.Contains(body, "App shop was destroyed.") || !strings.Contains(body, "bulwark apps restore shop") {
			t.Errorf("%s answers %d %s", op.ID, code, body)
		}
	}
	if b.node.asked != asked {
		t.Error("the node was asked for it")
	}
	if err := b.endGraces(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, _ := b.call("restore-app")
	var v client.App
	if err := json.Unmarshal([]byte(b.goes("restore-app", in)), &v); err != nil || v.State == client.StateDestroyed || v.Until != nil || v.ID != b.app ||
		v.Release != 1 || v.Config != 1 || v.Formation["web"] != 2 || len(v.Domains) != 1 {
		t.Errorf("it comes back as %+v, %v", v, err)
	}
	if n := b.wanted(); n != 2 {
		t.Errorf("%d instances are wanted", n)
	}
	vars, err := app.Variables(t.Context(), b.db.Reader(), b.app)
	if err != nil || len(vars) != 1 {
		t.Errorf("its variables are %v, %v", vars, err)
	}
}

// What the node says is over is forgotten, once and with one entry, however often a server that was killed begins again; its name
// is free then.
func TestGraceEnds(t *testing.T) {
	b := gracedBed(t)
	b.node.graces = []nodeapi.Grace{{App: b.app, Final: true}}
	for range 3 {
		if err := b.endGraces(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.finals(); n != 1 {
		t.Errorf("%d entries tell of its end", n)
	}
	if code, body := b.asks("get-app", request{}); code != http.StatusNotFound || !strings.Contains(body, "There is no such app.") {
		t.Errorf("it answers %d %s", code, body)
	}
	if domains, err := app.Domains(t.Context(), b.db.Reader()); err != nil || len(domains[b.app]) > 0 {
		t.Errorf("it left %v, %v", domains, err)
	}
	if final, err := app.Final(t.Context(), b.db.Reader(), b.app); err != nil || !final {
		t.Error(final, err)
	}
	b.goes("create-app", request{body: b.signed(statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "shop"})})
}

func (b *bed) finals() (n int) {
	for _, e := range b.entries() {
		if e.Action == graceOver && e.Resource == "app:shop" && e.Outcome == audit.Done && e.Actor == "" && e.From == "" {
			n++
		}
	}
	return n
}

// The node gave the name of an app away whose end we have not heard of yet: the new one is written, and the end of the old one.
func TestNameOfAnAppThatIsOver(t *testing.T) {
	b := gracedBed(t)
	id := bulwark.NewAppID()
	b.goes("create-app", request{body: b.signed(statement.KindAppCreate, id, statement.AppCreate{Name: "shop"})})
	if n := b.finals(); n != 1 {
		t.Errorf("%d entries tell of the end of the old one", n)
	}
	if body := b.goes("get-app", request{}); !strings.Contains(body, string(id)) {
		t.Errorf("it is %s", body)
	}
}

// An owner who does without the grace has it gone at once, before the destruction or after it.
func TestDestroyForGood(t *testing.T) {
	b := gracedBed(t)
	b.node.until = nil
	now := request{body: b.signed(statement.KindAppDestroy, b.app, statement.AppDestroy{Name: "shop", Now: true})}
	if body := b.goes("destroy-app", now); strings.Contains(body, "until") {
		t.Errorf("it answers %s", body)
	}
	if code, _ := b.asks("get-app", request{}); code != http.StatusNotFound {
		t.Errorf("it answers %d", code)
	}
	if n := b.finals(); n != 0 {
		t.Error("the node's count is said to have ended it")
	}
	if all := b.entries(); !slices.ContainsFunc(all, func(e audit.Record) bool {
		return e.Action == string(statement.KindAppDestroy) && e.Detail == "for good" && e.Actor == ana
	}) {
		t.Errorf("it left %+v", all)
	}
}

// A change that the node took before the app was destroyed, and whose effect was still on its way, is there when the app is.
func TestEffectInAGrace(t *testing.T) {
	b := gracedBed(t)
	r := nodeapi.Receipt{Digest: bulwark.Sum([]byte("late")), Kind: statement.KindConfigSet, Person: ana, App: b.app, Config: &statement.ConfigRef{Revision: 2},
		Body: []byte(`{"base":1,"set":{"LATE":"eA=="}}`)}
	if err := b.db.Tx(t.Context(), func(tx *sql.Tx) error { return b.settled(t.Context(), tx, &r) }); err != nil {
		t.Fatal(err)
	}
	in, _ := b.call("restore-app")
	if body := b.goes("restore-app", in); !strings.Contains(body, `"config":2`) {
		t.Errorf("it comes back as %s", body)
	}
}

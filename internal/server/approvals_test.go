package server

import (
	"database/sql"
	"net/http"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// next is the release after those that are there, as the node would make it.
func (b *bed) next(number uint64) *nodeapi.Released {
	return &nodeapi.Released{Release: statement.Release{Project: bulwark.FirstProject, App: b.app, Name: "shop", Generation: number, Image: bulwark.Sum(nil), Provenance: bulwark.Sum(nil),
		Cause: statement.Cause{Kind: statement.KindRollback, Person: ana, Digest: bulwark.Sum([]byte{byte(number)})}}}
}

// working is a bed whose operations are run.
func working(t *testing.T) *bed {
	t.Helper()
	b := newBed(t)
	if err := b.jobs.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.jobs.Wait)
	return b
}

// composed has an operation make a release that lacks approvals.
func (b *bed) composed(number uint64, missing int) (done *client.Done, err error) {
	b.t.Helper()
	full := b.next(number)
	b.node.mu.Lock()
	b.node.released, b.node.missing = full, missing
	b.node.mu.Unlock()
	op := job.Operation{ID: bulwark.NewOperationID(), Project: bulwark.FirstProject, App: b.app, Kind: changeOperation, Cause: full.Release.Cause.Digest, Person: ana}
	if err := b.db.Tx(b.t.Context(), func(tx *sql.Tx) error { return job.Enqueue(tx, op) }); err != nil {
		b.t.Fatal(err)
	}
	b.jobs.Wake()
	werr := b.jobs.Watch(b.t.Context(), b.app, op.ID, func(e client.Event) error {
		done = e.Done
		if e.Error != nil {
			err = e.Error
		}
		return nil
	})
	if werr != nil {
		b.t.Fatal(werr)
	}
	return done, err
}

// states are those of the app's releases, the newest first.
func (b *bed) states() string {
	b.t.Helper()
	all, err := release.List(b.t.Context(), b.db.Reader(), b.app)
	if err != nil {
		b.t.Fatal(err)
	}
	var words []string
	for _, r := range all {
		words = append(words, r.State)
	}
	return strings.Join(words, " ")
}

// approving are the operations that go on with a release, of whatever state.
func (b *bed) approving() (out []bulwark.Digest) {
	b.t.Helper()
	rows, err := b.db.Reader().Query(`SELECT cause FROM operation WHERE kind = ? ORDER BY seq`, approveOperation)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var cause bulwark.Digest
		if err := rows.Scan(&cause); err != nil {
			b.t.Fatal(err)
		}
		out = append(out, cause)
	}
	return out
}

// The operation that made a release ends well, with what to do next; nothing of it was started, and a newer one takes its place.
func TestReleaseWaits(t *testing.T) {
	b := working(t)
	done, err := b.composed(2, 1)
	if err != nil || !done.Waiting || done.Release != 2 || done.Message != "Release v2 waits for the approval of another person: bulwark releases approve v2 -a shop" {
		t.Fatalf("%+v, %v", done, err)
	}
	if done, err = b.composed(2, 2); err != nil || !strings.Contains(done.Message, "of 2 other people") { // run again
		t.Fatalf("%+v, %v", done, err)
	}
	var rows int
	if err := b.db.Reader().QueryRow(`SELECT count(*) FROM instance`).Scan(&rows); err != nil || rows > 0 {
		t.Fatalf("%d instances are wanted, %v", rows, err)
	}
	if done, err = b.composed(3, 1); err != nil || !done.Waiting {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := b.states(); got != "waiting superseded candidate" {
		t.Errorf("the releases are %s", got)
	}
}

// An approval leads to an operation that goes on with the very release; a statement about another than the one in the path is
// not passed on.
func TestApprovalGoesOn(t *testing.T) {
	b := working(t)
	if _, err := b.composed(2, 1); err != nil {
		t.Fatal(err)
	}
	op := b.operation("approve-release")
	op.Path = strings.Replace(op.Path, "{number}", "2", 1)
	if w := b.do(op, request{body: b.signed(statement.KindApprove, b.app, statement.Approve{Generation: 1, Release: bulwark.Sum(nil)})}, ana); w.Code != http.StatusForbidden || b.node.asked > 0 {
		t.Errorf("about another release: %d %s", w.Code, w.Body)
	}
	if w := b.do(op, request{body: b.signed(statement.KindApprove, bulwark.NewAppID(), statement.Approve{Generation: 2, Release: bulwark.Sum(nil)})}, ana); w.Code != http.StatusForbidden || b.node.asked > 0 {
		t.Errorf("about another app: %d %s", w.Code, w.Body)
	}
	if w := b.do(op, request{body: b.signed(statement.KindApprove, b.app, statement.Approve{Generation: 2, Release: bulwark.Sum(nil)})}, ana); w.Code/100 != 2 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if all := b.approving(); len(all) != 1 || all[0] != b.next(2).Release.Cause.Digest {
		t.Errorf("the operations are %+v", all)
	}
	if all := b.entries(); all[0].Action != "release.approve" || all[0].Detail != "v2" || all[0].Chain == nil {
		t.Errorf("the entry is %+v", all[0])
	}
}

// When a protection goes away, what waited under it is looked at again.
func TestProtectionGoesAway(t *testing.T) {
	b := working(t)
	if _, err := b.composed(2, 1); err != nil {
		t.Fatal(err)
	}
	r := &nodeapi.Receipt{Digest: bulwark.Sum([]byte("asked")), Kind: statement.KindProtect, App: b.app, Person: ana,
		Protection: &statement.Protection{Approvals: 1, Asked: &statement.Asked{Request: bulwark.Sum([]byte("asked")), Person: ana, Missing: 1}}}
	settle := func() {
		t.Helper()
		if err := b.db.Tx(t.Context(), func(tx *sql.Tx) error { return b.settled(t.Context(), tx, r) }); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	if all := b.approving(); len(all) != 0 {
		t.Errorf("asking for it made %+v", all)
	}
	if w := b.do(b.operation("get-app"), request{}, ana); !strings.Contains(w.Body.String(), `"protection":{"approvals":1,"asked":{"approvals":0`) {
		t.Errorf("the app is shown as %s", w.Body)
	}
	r.Kind, r.Protection = statement.KindProtectApprove, &statement.Protection{}
	settle()
	if all := b.approving(); len(all) != 1 {
		t.Errorf("the operations are %+v", all)
	}
}

// operation returns an endpoint.
func (b *bed) operation(id string) api.Op {
	b.t.Helper()
	for _, op := range b.api.Operations() {
		if op.ID == id {
			return op
		}
	}
	b.t.Fatalf("there is no endpoint %s", id)
	return api.Op{}
}

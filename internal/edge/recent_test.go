package edge

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// What is asked for after a place comes once, in its order, whatever else was written meanwhile; it takes no more room than it may.
func TestRecent(t *testing.T) {
	var r recent
	a, b := bulwark.NewAppID(), bulwark.NewAppID()
	line := func(app bulwark.AppID, n int) []byte {
		return fmt.Appendf(nil, `{"id":"%d","app":"%s","n":"%s"}`+"\n", n, app, strings.Repeat("x", n%100))
	}
	var at uint64
	seen := 0
	for n := range 20_000 {
		r.add(append(line(a, n), line(b, n)...))
		if n%50 == 49 {
			lines, next := r.of(a, at, maxRecent)
			for _, l := range lines {
				if !bytes.HasPrefix(l, fmt.Appendf(nil, `{"id":"%d",`, seen)) {
					t.Fatalf("%d: %s", seen, l)
				}
				seen++
			}
			at = next
		}
	}
	if seen != 20_000 {
		t.Errorf("%d came", seen)
	}
	if n := cap(r.old) + cap(r.now); n > 3*recentRoom {
		t.Errorf("it has %d bytes", n)
	}
	if lines, _ := r.of(b, 0, 3); len(lines) != 3 || !bytes.Contains(lines[2], []byte(`"19999"`)) {
		t.Errorf("%s", lines)
	}
	if lines, next := r.of(a, at+1<<40, 10); len(lines) != 0 || next != at {
		t.Error("from a place that is not there yet", len(lines), next, at)
	}
}

// The edge tells of an app's requests as they were; a client's own words cannot pass for another app's line.
func TestAccessEvents(t *testing.T) {
	r := newRig(t, nil)
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
	other := bulwark.NewAppID()
	send(t, r.client(true), "POST", "/x?secret=1", nil, strings.NewReader("12345"))
	send(t, r.client(false), "GET", `/%22,%22app%22:%22`+string(other)+`%22,`, nil, nil)
	var got bulwark.AccessEvents
	for end := time.Now().Add(10 * time.Second); len(got.Events) < 2 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = r.control.AccessEvents(t.Context(), app, 0, 10); err != nil {
			t.Fatal(err)
		}
	}
	if len(got.Events) != 2 {
		t.Fatalf("%+v", got)
	}
	e := got.Events[0]
	if e.Method != "POST" || e.Path != "/x" || e.Status != 200 || e.In != 5 || e.Out != 2 || e.Client != "127.0.0.1" || e.Host != "a.example.org" || e.ID == "" || e.Proto != "HTTP/2.0" || e.App != app {
		t.Errorf("%+v", e)
	}
	if after, err := r.control.AccessEvents(t.Context(), app, got.Next, 10); err != nil || len(after.Events) != 0 || after.Next != got.Next {
		t.Error(after, err)
	}
	if none, err := r.control.AccessEvents(t.Context(), other, 0, 10); err != nil || len(none.Events) != 0 {
		t.Error(none, err)
	}
	if _, err := r.control.AccessEvents(t.Context(), "app_x", 0, 10); err == nil {
		t.Error("an app that cannot be")
	}
}

package posture

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A control passes only if all attacks were refused and something was proved in the same run.
func TestJudge(t *testing.T) {
	ok := postureapi.Check{What: "x", Held: true}
	no := postureapi.Check{What: "x"}
	for name, c := range map[string]struct {
		proven, attacks []postureapi.Check
		err             error
		want            postureapi.Outcome
	}{
		"nothing":                      {nil, nil, nil, postureapi.Unknown},
		"attacks without a proof":      {nil, []postureapi.Check{ok}, nil, postureapi.Unknown},
		"proofs without an attack":     {[]postureapi.Check{ok}, nil, nil, postureapi.Unknown},
		"all refused and proved":       {[]postureapi.Check{ok, ok}, []postureapi.Check{ok}, nil, postureapi.Pass},
		"one proof is missing":         {[]postureapi.Check{ok, no}, []postureapi.Check{ok}, nil, postureapi.Unknown},
		"one came through":             {[]postureapi.Check{ok}, []postureapi.Check{ok, no}, nil, postureapi.Fail},
		"came through without a proof": {[]postureapi.Check{no}, []postureapi.Check{no}, nil, postureapi.Fail},
		"an error":                     {[]postureapi.Check{ok}, []postureapi.Check{ok}, errors.New("x"), postureapi.Unknown},
		"came through before an error": {[]postureapi.Check{ok}, []postureapi.Check{no}, errors.New("x"), postureapi.Fail},
	} {
		if got, why := judge(&Record{proven: c.proven, attacks: c.attacks}, c.err); got != c.want || why == "" {
			t.Errorf("%s: %s (%s), want %s", name, got, why, c.want)
		}
	}
}

// However much a probe notes, what came through is in its record, and nothing in it drives a terminal.
func TestRecordIsBounded(t *testing.T) {
	var r Record
	for i := range 2 * maxChecks {
		r.Refused(fmt.Sprint(i), true, "")
	}
	r.Refused("it\x1b[2J", false, strings.Repeat("\x00", 10_000))
	if len(r.attacks) != maxChecks {
		t.Fatalf("%d are kept", len(r.attacks))
	}
	if got, why := judge(&r, nil); got != postureapi.Fail || strings.ContainsAny(why, "\x1b\x00") || len(why) > 3*maxDetail {
		t.Fatalf("%s %q", got, why)
	}
}

// Records are numbered without a gap, each names the one before, and only the prober's key makes one.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	s, err := openStore(ctx, dir)
	must(t, err)
	result := func(control string, began time.Time) *postureapi.Result {
		return &postureapi.Result{Control: control, Began: began, Every: bulwark.Duration(time.Hour), Outcome: postureapi.Pass}
	}
	long := time.Now().Add(-2 * keep)
	must(t, s.put(ctx, result("ISO-1", long)))
	first, _, _, err := s.latest(ctx, "ISO-1")
	must(t, err)
	must(t, s.put(ctx, result("NET-1", long)))
	must(t, s.put(ctx, result("ISO-1", time.Now())))
	must(t, s.db.Close())
	if s, err = openStore(ctx, dir); err != nil { // the same key, and the numbers go on
		t.Fatal(err)
	}
	defer s.db.Close()
	must(t, s.put(ctx, result("ISO-1", time.Now())))
	public, err := os.ReadFile(filepath.Join(dir, PublicKeyFile))
	must(t, err)
	key, err := statement.ParseKey(public)
	must(t, err)
	envelope, _, _, err := s.latest(ctx, "ISO-1")
	must(t, err)
	r, err := Open(envelope, key)
	must(t, err)
	if r.Number != 4 || r.Run != 3 || r.Before == "" {
		t.Fatalf("%+v", r)
	}
	if _, err := Open(first, key); err != nil {
		t.Fatal(err)
	}
	// The old one of a control that has a newer is gone, the only one of another stays.
	if old, _, _, err := s.latest(ctx, "NET-1"); err != nil || old == nil {
		t.Fatal("the only record of a control was dropped", err)
	}
	var n int
	must(t, s.db.Reader().QueryRow(`SELECT count(*) FROM record WHERE control = 'ISO-1'`).Scan(&n))
	if n != 2 {
		t.Fatalf("%d records of ISO-1", n)
	}
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	forged, err := statement.Seal(payloadType, r, other)
	must(t, err)
	if _, err := Open(forged, key); err == nil {
		t.Fatal("a record of another key was believed")
	}
	foreign, err := statement.Seal(statement.PayloadType, r, s.key)
	must(t, err)
	if _, err := Open(foreign, key); err == nil {
		t.Fatal("a document of another kind was taken for a record")
	}
}

func TestStale(t *testing.T) {
	now := time.Now()
	r := &postureapi.Result{Began: now.Add(-119 * time.Minute), Every: bulwark.Duration(time.Hour)}
	if r.Stale(now) || !r.Stale(now.Add(3*time.Minute)) || !r.Stale(now.Add(-3*time.Hour)) {
		t.Fatal("a record is fresh for two periods, and not before it was made")
	}
}

// The probes run by their periods, at once if they never ran or the clock was set back, and when somebody asks.
func TestNext(t *testing.T) {
	ctx := t.Context()
	s, err := openStore(ctx, t.TempDir())
	must(t, err)
	defer s.db.Close()
	ran := 0
	c := Control{ID: "ISO-1", Every: time.Hour, Probe: func(context.Context, *World, *Record) error { ran++; panic("it trips") }}
	p := &prober{store: s, world: &World{dir: t.TempDir()}, controls: []Control{c}, asked: map[string]bool{}, wake: make(chan struct{}, 1)}
	p.config.Log = quietLog()
	if next, _ := p.next(ctx); next == nil {
		t.Fatal("what never ran is not due")
	}
	must(t, p.run(ctx, c))
	envelope, _, _, err := s.latest(ctx, "ISO-1")
	must(t, err)
	r, err := Open(envelope, statement.NewKey(s.key.Public().(ed25519.PublicKey)))
	must(t, err)
	if ran != 1 || r.Outcome != postureapi.Unknown || !strings.Contains(r.Why, "panicked") {
		t.Fatalf("a probe that trips: %+v", r)
	}
	if next, wait := p.next(ctx); next != nil || wait < 59*time.Minute {
		t.Fatal("what just ran is due", wait)
	}
	if err := p.ask(postureapi.Run{Only: []string{"NET"}}); err == nil {
		t.Fatal("a control that is not there was asked for")
	}
	must(t, p.ask(postureapi.Run{Only: []string{"iso"}}))
	if next, _ := p.next(ctx); next == nil {
		t.Fatal("what was asked for does not run")
	}
	must(t, s.put(ctx, &postureapi.Result{Control: "ISO-1", Began: time.Now().Add(48 * time.Hour), Every: bulwark.Duration(time.Hour)}))
	p.asked, p.rests = map[string]bool{}, time.Time{}
	if next, _ := p.next(ctx); next == nil {
		t.Fatal("a clock that was set back keeps a probe from running")
	}
	p.config.Manual = true
	if next, _ := p.next(ctx); next != nil {
		t.Fatal("a probe runs though nobody asked")
	}
}

// Runs that nobody asked for leave the processors alone for most of the time, take what is due longest, and come back sooner to what did
// not pass.
func TestRests(t *testing.T) {
	ctx := t.Context()
	s, err := openStore(ctx, t.TempDir())
	must(t, err)
	defer s.db.Close()
	took := 50 * time.Millisecond
	slow := func(_ context.Context, _ *World, r *Record) error {
		time.Sleep(took)
		r.Proven("it is so", true, "")
		r.Refused("try it", true, "")
		return nil
	}
	p := &prober{store: s, world: &World{dir: t.TempDir()}, asked: map[string]bool{}, wake: make(chan struct{}, 1),
		controls: []Control{{ID: "ISO-1", Every: hourly, Probe: slow}, {ID: "ISO-2", Every: daily, Probe: slow}, {ID: "ISO-3", Every: daily, Probe: slow}}}
	p.config.Log = quietLog()
	is := func(id, when string) time.Duration {
		t.Helper()
		next, wait := p.next(ctx)
		if got := ""; next != nil || id != "" {
			if next != nil {
				got = next.ID
			}
			if got != id {
				t.Fatalf("%s: %q is next, in %s", when, got, wait)
			}
		}
		return wait
	}
	put := func(id string, ago time.Duration, o postureapi.Outcome) {
		t.Helper()
		must(t, s.put(ctx, &postureapi.Result{Control: id, Began: time.Now().Add(-ago), Every: bulwark.Duration(hourly), Outcome: o}))
	}
	is("ISO-1", "first")
	must(t, p.run(ctx, p.controls[0]))
	is("ISO-2", "what never ran does not wait")
	put("ISO-2", 26*time.Hour, postureapi.Pass)
	put("ISO-3", 27*time.Hour, postureapi.Pass)
	if wait := is("", "after a run"); wait < took*restFor/2 || wait > restMost {
		t.Fatalf("it rests for %s", wait)
	}
	must(t, p.ask(postureapi.Run{Only: []string{"ISO-1"}}))
	is("ISO-1", "what somebody asked for does not wait")
	p.rests = time.Time{}
	must(t, p.run(ctx, p.controls[0]))
	is("ISO-3", "what is due longest is first, and a run that was asked for is no reason to rest")
	put("ISO-3", 5*time.Hour, postureapi.Pass)
	put("ISO-2", 7*time.Hour, postureapi.Fail)
	is("ISO-2", "what did not pass")
	put("ISO-2", 5*time.Hour, postureapi.Unknown)
	is("", "what did not pass, a little later")
	p.rests = time.Now().Add(restMost)
	put("ISO-2", 35*time.Hour, postureapi.Pass)
	if wait := is("", "before a record gets too old"); wait > restMost {
		t.Fatalf("it waits for %s", wait)
	}
	put("ISO-2", 37*time.Hour, postureapi.Pass)
	is("ISO-2", "a record that gets too old does not wait")
}

// Ids name controls, each has what people are told, and nobody's period is longer than a day.
func TestControls(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Controls() {
		if seen[c.ID] || c.Promise == "" || c.Tries == "" || c.Version == 0 || c.Every <= 0 || c.Every > weekly || c.Probe == nil {
			t.Errorf("%+v", c)
		}
		seen[c.ID] = true
	}
}

// The search finds a marker in every form in which it is planted, and nothing where it is not.
func TestSearch(t *testing.T) {
	marker := "MARKER-0123456789abcdef0123456789abcdef"
	s := newSearch(marker)
	dir := filepath.Join(t.TempDir(), "twin")
	must(t, plant(dir, marker))
	found, files, err := s.tree(t.Context(), dir, time.Time{}, "")
	must(t, err)
	if len(found) != files || files < 12 {
		t.Fatalf("found in %d of %d: %q", len(found), files, found)
	}
	other := newSearch("MARKER-fedcba9876543210fedcba9876543210")
	if found, _, err := other.tree(t.Context(), dir, time.Time{}, ""); err != nil || len(found) != 0 {
		t.Fatal("found where it is not", found, err)
	}
	if found, files, err := s.tree(t.Context(), filepath.Dir(dir), time.Time{}, dir); err != nil || files != 0 || len(found) != 0 {
		t.Fatal("the folder that was left out was searched", found, files, err)
	}
	if s.in([]byte(disguise(marker))) {
		t.Fatal("a disguised marker is found")
	}
	s.left = 10
	if _, _, err := s.tree(t.Context(), dir, time.Time{}, ""); err == nil {
		t.Fatal("more was read than may be")
	}
}

// This process is not confined, and everything about that is seen.
func TestConfined(t *testing.T) {
	got := map[string]bool{}
	for _, d := range confined(os.Getpid(), install.Range{Base: 1 << 30, Count: 1}, "") {
		got[d.what] = true
	}
	for _, want := range []string{"no capabilities", "no new privileges", "a filter of system calls", "a user of the installation's range", "a net namespace of its own",
		"a user namespace of its own", "a read-only root", "nothing of the host's to read"} {
		if !got[want] {
			t.Errorf("not noticed: %s", want)
		}
	}
	if confined(1<<22+1, install.Range{}, "") != nil {
		t.Error("a process that is gone deviates")
	}
}

func TestProcAddress(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0000":                         "0.0.0.0:0",
		"00000000000000000000000001000000:01BB": "[::1]:443",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
		"B80D0120000000000000000001000000:0035": "[2001:db8::1]:53",
	} {
		if got, err := parseProcAddr(in); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", ":", "0100007F", "0100007G:0050", "0100:0050", "0100007F:1F900"} {
		if _, err := parseProcAddr(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzProcAddress(f *testing.F) {
	f.Add("0100007F:1F90")
	f.Fuzz(func(_ *testing.T, s string) { _, _ = parseProcAddr(s) })
}

// Every forgery differs from what it forges, and none is the original.
func TestForge(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	rel := &statement.Release{Version: 1, Name: "shop", Generation: 2}
	sealed, err := statement.Seal(statement.ReleasePayloadType, rel, key)
	must(t, err)
	good := statement.Bundle{Release: sealed, Provenance: sealed, Cause: []byte("cause")}
	all, err := forge(good, statement.Bundle{Release: []byte("old"), Cause: []byte("older")}, rel)
	must(t, err)
	if len(all) < 10 {
		t.Fatal(len(all))
	}
	for _, f := range all {
		if string(f.bundle.Release) == string(good.Release) && string(f.bundle.Provenance) == string(good.Provenance) && string(f.bundle.Cause) == string(good.Cause) {
			t.Errorf("%s is the original", f.what)
		}
		var r statement.Release
		if strings.HasPrefix(f.what, "a release with ") && strings.Contains(f.what, "old signature") &&
			statement.Open(f.bundle.Release, statement.ReleasePayloadType, statement.NewKey(key.Public().(ed25519.PublicKey)), &r) == nil {
			t.Errorf("%s verifies", f.what)
		}
	}
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// The plain twin of a build runs on the host: nothing that it tries may lead off the machine.
func TestTwinStaysHere(t *testing.T) {
	got := local([]string{"--timeout", "1s", "--try", "l0=tcp:198.18.0.1:8080", "--try", "api=tcp:127.0.0.1:8443", "--try", "gw=tcp:198.19.255.254:53", "--mask", "00"})
	if strings.Join(got, " ") != "--timeout 1s --try api=tcp:127.0.0.1:8443 --mask 00" {
		t.Fatal(got)
	}
}

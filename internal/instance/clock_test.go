package instance

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// A pause ends when its time has come, and does not last for a year because the clock was a year ahead when it began.
func TestPauseOutlivesNoClock(t *testing.T) {
	now := time.Now()
	for until, want := range map[time.Duration]action{-time.Second: doStart, 0: doStart, time.Second: doNothing, longestPause: doNothing,
		longestPause + time.Minute: doStart, 365 * 24 * time.Hour: doStart} {
		if got := decide(Row{Want: true, NotBefore: now.Add(until)}, nodeapi.Instance{}, false, now); got != want {
			t.Errorf("a pause with %s left: %v, want %v", until, got, want)
		}
	}
	for crashes := range 100 {
		if p := pause(crashes); p > longestPause {
			t.Errorf("the pause after %d crashes is %s", crashes, p)
		}
	}
}

// What ran while the clock was ahead does not push out what runs after it was set right.
func TestCronHistoryAfterAClockAhead(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	c := w.cron()
	w.now = w.now.AddDate(1, 0, 0)
	for range keepRuns {
		w.now = w.now.Add(24 * time.Hour)
		c.due(t.Context())
		w.finishAll()
	}
	w.now = w.now.AddDate(-1, 0, 1)
	c.due(t.Context())
	w.finishAll()
	runs, err := CronRuns(t.Context(), w.db.Reader(), w.app.ID)
	if err != nil || len(runs) != keepRuns || !runs[0].Due.Equal(w.now.Truncate(time.Minute)) {
		t.Errorf("of %d runs the newest is that of %s, at %s: %v", len(runs), runs[0].Due, w.now, err)
	}
}

// A run that was lost is over soon, also if the clock was a year ahead when it was started.
func TestCronLostAfterAClockAhead(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	ctx, cancel := context.WithCancel(t.Context())
	w.cron().due(ctx)
	if err := w.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE cron_run SET state = 'running', started = ?`, milli(w.now.AddDate(1, 0, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { w.m.Run(ctx, nil) })
	wg.Go(func() { w.cron().Run(ctx) })
	defer wg.Wait()
	defer cancel()
	w.until("the lost run has failed", func() bool { return slices.Equal(w.states(), []CronState{CronFailed}) })
}

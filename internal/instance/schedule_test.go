package instance

import (
	"testing"
	"time"
)

func TestScheduleNext(t *testing.T) {
	at := time.Date(2026, time.November, 22, 1, 14, 30, 0, time.UTC) // a Sunday
	for _, c := range []struct{ schedule, next string }{
		{"* * * * *", "2026-11-22T01:15:00Z"},
		{"*/15 * * * *", "2026-11-22T01:15:00Z"},
		{"14 * * * *", "2026-11-22T02:14:00Z"},
		{"30 3 * * 1", "2026-11-23T03:30:00Z"},
		{"30 3 * * mon-wed", "2026-11-23T03:30:00Z"},
		{"0 0 * * 7", "2026-11-29T00:00:00Z"},
		{"0 0 * * 0", "2026-11-29T00:00:00Z"},
		{"0 0 1 jan *", "2027-01-01T00:00:00Z"},
		{"0 0 29 2 *", "2028-02-29T00:00:00Z"},
		{"0 0 30 2 *", ""},
		{"5 4 1,15 * *", "2026-12-01T04:05:00Z"},
		{"5 4 1 * tue", "2026-11-24T04:05:00Z"},   // either of both days
		{"5 4 */2 * tue", "2026-12-01T04:05:00Z"}, // a * does not restrict, so both must hold: the 1st is a Tuesday
		{"0-10/5,59 1 * * *", "2026-11-22T01:59:00Z"},
		{"0 22-23 31 12 *", "2026-12-31T22:00:00Z"},
	} {
		s, err := ParseSchedule(c.schedule)
		if err != nil {
			t.Error(err)
			continue
		}
		next := s.Next(at)
		got := ""
		if !next.IsZero() {
			got = next.Format(time.RFC3339)
			if !s.Matches(next) || !s.Matches(next.Add(59*time.Second)) {
				t.Errorf("%s is not due at %s", c.schedule, got)
			}
		}
		if got != c.next {
			t.Errorf("%s: %s, want %s", c.schedule, got, c.next)
		}
	}
}

// Next and Matches agree: no minute before the next one is due.
func TestScheduleAgrees(t *testing.T) {
	for _, text := range []string{"7 */5 * * *", "*/20 9-17 * * mon-fri", "1 1 13 * fri", "0 12 28-31 feb,apr *"} {
		s, err := ParseSchedule(text)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2027, time.January, 30, 23, 59, 0, 0, time.UTC)
		next := s.Next(at)
		for m := at.Add(time.Minute); m.Before(next); m = m.Add(time.Minute) {
			if s.Matches(m) {
				t.Fatalf("%s is due at %s before %s", text, m, next)
			}
		}
	}
}

func TestScheduleRefuses(t *testing.T) {
	for _, text := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *",
		"5/10 * * * *", "5-1 * * * *", "-1 * * * *", "1- * * * *", "1,,2 * * * *", "@daily", "* * * * L", "+1 * * * *", "1-2-3 * * * *", "mon * * * *"} {
		if _, err := ParseSchedule(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("*/5 1-3,7 1 jan-mar mon")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		if next := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); !next.IsZero() && !s.Matches(next) {
			t.Errorf("%q is not due at %s", text, next)
		}
	})
}

package instance

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Schedule is when a cron job runs: five fields as crontab(5) reads them, in UTC. Lists, ranges, steps, the names of months
// and days are understood, and that a job whose day of the month and day of the week are both given runs on either.
type Schedule struct {
	minute, hour, day, month, weekday uint64 // bit n is set for the value n
	eitherDay                         bool
}

// scheduleFields are the bounds of the fields, and names in place of numbers from the lower bound on.
var scheduleFields = [5]struct {
	min, max int
	names    []string
}{
	{0, 59, nil}, {0, 23, nil}, {1, 31, nil},
	{1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// ParseSchedule reads a schedule. The builder has checked it; but a release is what a builder wrote.
func ParseSchedule(text string) (Schedule, error) {
	fields := strings.Fields(text)
	if len(fields) != len(scheduleFields) {
		return Schedule{}, badSchedule(text)
	}
	var bits [5]uint64
	for i, f := range fields {
		for part := range strings.SplitSeq(f, ",") {
			set, ok := schedulePart(i, part)
			if !ok {
				return Schedule{}, badSchedule(text)
			}
			bits[i] |= set
		}
	}
	if bits[4]&(1<<7) != 0 {
		bits[4] |= 1 // 7 is Sunday too
	}
	// crontab(5): a field that begins with * does not restrict.
	either := !strings.HasPrefix(fields[2], "*") && !strings.HasPrefix(fields[4], "*")
	return Schedule{bits[0], bits[1], bits[2], bits[3], bits[4], either}, nil
}

func badSchedule(text string) error {
	return bulwark.Invalid(fmt.Sprintf("%+.64q is not a schedule.", text),
		"A schedule has five fields: minute, hour, day of the month, month, day of the week, in UTC; \"30 3 * * 1\" is Monday at 03:30.")
}

// schedulePart reads one part of a list: "*", "5", "1-5", and each but the second with a step, "*/10".
func schedulePart(field int, part string) (bits uint64, ok bool) {
	f := scheduleFields[field]
	span, stepText, stepped := strings.Cut(part, "/")
	from, to, step := f.min, f.max, 1
	if stepped {
		if step, ok = scheduleNumber(stepText, nil, 0); !ok || step < 1 {
			return 0, false
		}
	}
	if span != "*" {
		first, last, ranged := strings.Cut(span, "-")
		if from, ok = scheduleNumber(first, f.names, f.min); !ok || stepped && !ranged {
			return 0, false
		}
		to = from
		if ranged {
			if to, ok = scheduleNumber(last, f.names, f.min); !ok {
				return 0, false
			}
		}
	}
	if from < f.min || to > f.max || from > to {
		return 0, false
	}
	for n := from; n <= to; n += step {
		bits |= 1 << n
	}
	return bits, true
}

func scheduleNumber(s string, names []string, first int) (int, bool) {
	for i, name := range names {
		if strings.EqualFold(s, name) {
			return first + i, true
		}
	}
	if s == "" || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// Matches tells whether a job is due in the minute of t.
func (s Schedule) Matches(t time.Time) bool {
	t = t.UTC()
	return s.hour&(1<<t.Hour()) != 0 && s.minute&(1<<t.Minute()) != 0 && s.onDay(t)
}

func (s Schedule) onDay(t time.Time) bool {
	day, weekday := s.day&(1<<t.Day()) != 0, s.weekday&(1<<int(t.Weekday())) != 0
	if s.month&(1<<int(t.Month())) == 0 {
		return false
	}
	if s.eitherDay {
		return day || weekday
	}
	return day && weekday
}

// Next returns the first minute after t in which the job is due; zero if there is none within eight years, which is as long
// as a leap day can be away.
func (s Schedule) Next(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Minute).Add(time.Minute)
	for end := t.AddDate(8, 0, 1); t.Before(end); {
		switch {
		case !s.onDay(t):
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, time.UTC)
		case s.hour&(1<<t.Hour()) == 0:
			t = t.Truncate(time.Hour).Add(time.Hour)
		case s.minute&(1<<t.Minute()) == 0:
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

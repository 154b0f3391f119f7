package builder

import (
	"fmt"
	"strconv"
	"strings"
)

// cronFields are the five fields of a schedule.
var cronFields = []struct {
	name     string
	min, max int
	names    []string // in place of numbers, from min on
}{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of the month", 1, 31, nil},
	{"month", 1, 12, strings.Fields("jan feb mar apr may jun jul aug sep oct nov dec")},
	{"day of the week", 0, 7, strings.Fields("sun mon tue wed thu fri sat")},
}

// checkSchedule checks a schedule as crontab(5) reads it: numbers, names of months and days, lists, ranges and steps.
// What only some crons know ("@daily", "L", "W", "?") is refused.
func checkSchedule(s string) error {
	if len(s) > 256 {
		return fmt.Errorf("the schedule is longer than 256 bytes")
	}
	fields := strings.Fields(s)
	if len(fields) != len(cronFields) {
		return fmt.Errorf("the schedule %+q has %d fields, not five", short(s), len(fields))
	}
	for i, text := range fields {
		for _, part := range strings.Split(text, ",") {
			if !cronPart(i, part) {
				f := cronFields[i]
				return fmt.Errorf("the schedule's %s %+q is not a number from %d to %d, a range, a list, a step or *", f.name, short(text), f.min, f.max)
			}
		}
	}
	return nil
}

func cronPart(field int, part string) bool {
	f := cronFields[field]
	span, step, stepped := strings.Cut(part, "/")
	if stepped {
		n, ok := cronNumber(step)
		if !ok || n < 1 || n > f.max {
			return false
		}
	}
	if span == "*" {
		return true
	}
	value := func(s string) (int, bool) {
		for i, name := range f.names {
			if strings.EqualFold(s, name) {
				return f.min + i, true
			}
		}
		n, ok := cronNumber(s)
		return n, ok && n >= f.min && n <= f.max
	}
	from, to, ranged := strings.Cut(span, "-")
	a, ok := value(from)
	if !ok {
		return false
	}
	if !ranged {
		return !stepped // "5/10" means different things to different crons
	}
	b, ok := value(to)
	return ok && a <= b
}

// cronNumber reads digits only: no sign, as strconv would take.
func cronNumber(s string) (int, bool) {
	if s == "" || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

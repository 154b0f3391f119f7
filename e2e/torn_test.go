package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// confined looks at running processes as the kernel sees them: each must have a filter and no way to more rights.
func confined(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: confined PROCESS...")
	}
	for _, name := range args {
		pid, err := of(ts).on.pid(name)
		ts.Check(err)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		ts.Check(err)
		for _, want := range []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n"} {
			if !strings.Contains(string(b), want) {
				ts.Fatalf("%s has not %s:\n%s", name, strings.TrimSpace(want), b)
			}
		}
	}
}

// torn runs a command again and again and kills a process a little later each time, so that one of the kills meets each
// step of what the command leads to. What was acknowledged must be there in the end: the witness's output has a line that
// holds the pattern. "{}" stands for the number of the try.
func torn(ts *testscript.TestScript, neg bool, args []string) {
	cut := slices.Index(args, "--")
	if neg || cut < 4 || cut+1 >= len(args) {
		ts.Fatalf("usage: torn PROCESS TIMES PATTERN WITNESS... -- PROGRAM ARG...")
	}
	times, err := strconv.Atoi(args[1])
	ts.Check(err)
	const step = 14 * time.Millisecond // a command takes about a tenth of a second
	number := func(s string, i int) string { return strings.ReplaceAll(s, "{}", strconv.Itoa(i)) }
	var acknowledged []string
	for i := range times {
		var argv []string
		for _, a := range args[cut+1:] {
			argv = append(argv, number(a, i))
		}
		done := make(chan error, 1)
		go func() {
			_, err := runOnce(ts, argv)
			done <- err
		}()
		time.Sleep(time.Duration(i) * step)
		kill9(ts, false, args[:1])
		if err := <-done; err == nil {
			acknowledged = append(acknowledged, number(args[2], i))
		}
		back(ts, false, args[:1])
	}
	ts.Logf("%d of %d were acknowledged", len(acknowledged), times)
	ts.Check(poll(30*time.Second, func() error {
		out, err := runOnce(ts, args[3:cut])
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		for _, a := range acknowledged {
			if !strings.Contains(out, a) {
				return fmt.Errorf("%q was acknowledged and is not in\n%s", a, out)
			}
		}
		return nil
	}))
}

func gone(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: gone DURATION TEXT")
	}
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	ts.Check(poll(within, func() error {
		for _, p := range of(ts).on.processes() {
			if strings.Contains(p, args[1]) {
				return errors.New("there still runs " + p)
			}
		}
		return nil
	}))
}

func many(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: many DURATION NUMBER TEXT")
	}
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, some := 0, args[1] == "some"
	if !some {
		want, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	ts.Check(poll(within, func() error {
		n := 0
		for _, p := range of(ts).on.processes() {
			if strings.Contains(p, args[2]) {
				n++
			}
		}
		if some && n == 0 || !some && n != want {
			return fmt.Errorf("%d processes, not %s", n, args[1])
		}
		return nil
	}))
}

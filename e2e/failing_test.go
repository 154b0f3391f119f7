package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// failing runs a command again and again, and each time has another write of a process fail: the first, the second, until the command makes
// no more of them. What was acknowledged must be there: the witness's output has a line that holds the pattern. What was not acknowledged
// must have been refused with a sentence, and the process lives on; or it is killed at that write, and its successor goes on. "{}" stands for the number of the try, "{2}" for 1 or 2 by turns.
//
//	failing [-from N] [-step N] PROCESS ENOSPC|EIO|SIGKILL PATTERN WITNESS... -- PROGRAM ARG...
func failing(ts *testscript.TestScript, neg bool, args []string) {
	flags := flag.NewFlagSet("failing", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	step := flags.Int("step", 1, "each so manieth write fails")
	from := flags.Int("from", 1, "the first write that fails")
	err := flags.Parse(args)
	args = flags.Args()
	cut := slices.Index(args, "--")
	if neg || err != nil || cut < 4 || cut+1 >= len(args) {
		ts.Fatalf("usage: failing [-from N] [-step N] PROCESS ENOSPC|EIO|SIGKILL PATTERN WITNESS... -- PROGRAM ARG...")
	}
	errno, known := map[string]unix.Errno{"ENOSPC": unix.ENOSPC, "EIO": unix.EIO, "SIGKILL": 0}[args[1]]
	if !known {
		ts.Fatalf("there is no error %s here", args[1])
	}
	on := of(ts).on
	pid, err := on.pid(args[0])
	ts.Check(err)
	var acknowledged, died []string
	refused := map[string]string{}
	tries, most := 0, 0
	for nth := *from; ; nth += *step {
		number := strings.NewReplacer("{}", strconv.Itoa(nth), "{2}", strconv.Itoa(1+tries%2)).Replace
		var argv []string
		for _, a := range args[cut+1:] {
			argv = append(argv, number(a))
		}
		// What is bound and passed over when it is full is no state: logs, and sockets' folders.
		f, err := fail(pid, on.root, []string{"logs", "run"}, nth, errno)
		ts.Check(err)
		out, cerr := runOnce(ts, argv)
		hit, writes, err := f.end()
		if errors.Is(err, errGone) {
			err = nil
		}
		ts.Check(err)
		tries, most = tries+1, max(most, writes)
		if cerr == nil {
			acknowledged = append(acknowledged, number(args[2]))
		} else if hit != "" {
			refused[hit] = out + cerr.Error()
		} else { // what was cut off before is settled within seconds
			ts.Check(poll(15*time.Second, func() error {
				if out, err := runOnce(ts, argv); err != nil {
					return fmt.Errorf("%s: nothing failed, and yet: %w\n%s", strings.Join(argv, " "), err, out)
				}
				return nil
			}))
			acknowledged = append(acknowledged, number(args[2]))
		}
		// A library of the server's ends it when the log cannot be written (tessera): then a successor goes on.
		time.Sleep(20 * time.Millisecond)
		ts.Check(poll(15*time.Second, func() error {
			now, err := (&target{on: on, name: args[0]}).find()
			if err == nil && now == pid && errno == 0 && hit != "" {
				return fmt.Errorf("the supervisor still says that %s is process %d", args[0], pid)
			}
			if err == nil && now != pid {
				died, pid = append(died, hit), now
				if errno == 0 && len(died)%4 == 0 { // else the supervisor waits longer each time
					restart(ts, false, args[:1])
					pid, err = (&target{on: on, name: args[0]}).find()
				}
			}
			return err
		}))
		if hit == "" {
			break
		}
		if tries > 300 {
			ts.Fatalf("after %d tries there are still more writes", tries)
		}
	}
	for at, text := range refused {
		if !strings.Contains(text, " !") || strings.Contains(text, "panic") {
			ts.Fatalf("%s of %s was told in no sentence:\n%s", args[1], at, text)
		}
		ts.Logf("%s: %s", at, strings.TrimSpace(text))
	}
	out, err := runOnce(ts, args[3:cut])
	if err != nil {
		ts.Fatalf("the witness: %v\n%s", err, out)
	}
	for _, a := range acknowledged {
		if !strings.Contains(out, a) {
			ts.Fatalf("%s was acknowledged and is not there:\n%s", a, out)
		}
	}
	ts.Logf("%s, %s: %d tries, up to %d writes, %d acknowledged, %d kinds of writes refused, ended by %q", args[0], args[1], tries, most, len(acknowledged), len(refused), died)
	if args[0] == "node" && errno != 0 && len(died) > 0 {
		ts.Fatalf("the node ended by %q", died)
	}
	if len(acknowledged) == 0 || most < 3 {
		ts.Fatalf("of %d tries with up to %d writes %d were acknowledged: this shows nothing", tries, most, len(acknowledged))
	}
}

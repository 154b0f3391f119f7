package kit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: bulwark-kit isolation [--neighbour PID]
       bulwark-kit network [--try NAME=tcp:ADDR:PORT ...] [--udp NAME=ADDR:PORT ...] [--spoof ADDR] [--timeout 1s]
       bulwark-kit resolve NAME ...
       bulwark-kit build [--marker BASE64 ...] [--try NAME=tcp:ADDR:PORT ...] [--root DIR] [--timeout 1s]
                         [--mask HEX ...] [--out FILE]
       bulwark-kit show --file FILE
       bulwark-kit exhaust --what memory|pids|files|disk|cpu --seconds N [--dir DIR]
       bulwark-kit serve
       bulwark-kit hold --seconds N`

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage is an argument that cannot be understood.
var errUsage = errors.New("usage")

// Run runs the subcommand that args name, and returns its exit code. It ends with 0 when the report is complete, whatever
// it says; the report is the answer, not the code.
func Run(args, env []string, stdout, stderr io.Writer) int {
	err := run(args, env, stdout, stderr)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "bulwark-kit: %v\n%s\n", err, usage)
		return exitUsage
	}
	fmt.Fprintf(stderr, "bulwark-kit: %v\n", err)
	return exitFailed
}

func run(args, env []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	name, rest := args[0], args[1:]
	allowed := map[string][]string{
		"isolation": {"neighbour", "calls"},
		"network":   {"try", "udp", "spoof", "timeout"},
		"resolve":   {},
		"build":     {"marker", "mask", "try", "timeout", "root", "out"},
		"show":      {"file"},
		"exhaust":   {"what", "seconds", "dir"},
		"serve":     {},
		"hold":      {"seconds"},
		child:       {"neighbour"},
		greed:       {"what", "seconds", "dir"},
	}
	known, ok := allowed[name]
	if !ok {
		return fmt.Errorf("%w: no subcommand %q", errUsage, name)
	}
	o, err := parseOptions(rest, known)
	if err != nil {
		return err
	}
	if len(o.names) > 0 != (name == "resolve" || name == child) {
		return fmt.Errorf("%w: %s has names or lacks them", errUsage, name)
	}
	o.env = env
	switch name {
	case "isolation":
		return isolation(o).write(stdout)
	case "network":
		return network(o).write(stdout)
	case "resolve":
		return resolve(o).write(stdout)
	case "build":
		return o.report(build(o), stdout)
	case "show":
		return show(o.file, stdout)
	case "exhaust":
		return exhaust(o, stdout, stderr)
	case "serve":
		return serve(o, stderr)
	case "hold":
		return hold(o, stdout)
	case greed:
		return takeAll(o, stdout)
	}
	return runChild(o, stdout)
}

// options are the flags of all subcommands.
type options struct {
	names     []string // what is no flag
	env       []string
	out       string // where a report goes, if not to standard output
	file      string // a report to show
	neighbour int
	noCalls   bool // the system calls are not counted: in a sandbox that takes half a minute
	tries     []target
	spoof     string
	timeout   time.Duration
	markers   [][]byte
	root      string
	what, dir string
	seconds   int
}

// maxMany bounds how often a flag or a name may be given.
const maxMany = 256

func parseOptions(args, known []string) (*options, error) {
	o := &options{timeout: time.Second, root: "/", dir: "/tmp"}
	for len(args) > 0 {
		flag, isFlag := strings.CutPrefix(args[0], "--")
		if !isFlag {
			o.names = append(o.names, args[0])
			args = args[1:]
			continue
		}
		if !slices.Contains(known, flag) {
			return nil, fmt.Errorf("%w: no flag %q here", errUsage, args[0])
		}
		if len(args) == 1 {
			return nil, fmt.Errorf("%w: --%s needs a value", errUsage, flag)
		}
		if err := o.set(flag, args[1]); err != nil {
			return nil, fmt.Errorf("%w: --%s %q: %w", errUsage, flag, args[1], err)
		}
		args = args[2:]
	}
	if len(o.names) > maxMany || len(o.tries) > maxMany || len(o.markers) > maxMany {
		return nil, fmt.Errorf("%w: more than %d of a kind", errUsage, maxMany)
	}
	return o, nil
}

func (o *options) set(flag, value string) (err error) {
	switch flag {
	case "neighbour":
		o.neighbour, err = within(value, 1, 1<<22)
	case "calls":
		var count bool
		count, err = strconv.ParseBool(value)
		o.noCalls = !count
	case "seconds":
		o.seconds, err = within(value, 1, 3600)
	case "try", "udp":
		var t target
		t, err = parseTarget(flag, value)
		o.tries = append(o.tries, t)
	case "spoof":
		o.spoof, err = parseAddress(value)
	case "timeout":
		o.timeout, err = time.ParseDuration(value)
		if err == nil && (o.timeout <= 0 || o.timeout > time.Minute) {
			err = errors.New("not between 0 and a minute")
		}
	case "marker":
		var m []byte
		m, err = parseMarker(value)
		o.markers = append(o.markers, m)
	case "mask":
		var m []byte
		m, err = unmask(value)
		o.markers = append(o.markers, m)
	case "out":
		o.out = value
	case "file":
		o.file = value
	case "what":
		o.what = value
		if !slices.Contains(kinds(), value) {
			err = errors.New("not one of " + strings.Join(kinds(), ", "))
		}
	case "root":
		o.root = value
	case "dir":
		o.dir = value
	}
	return err
}

func within(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("not a number from %d to %d", low, high)
	}
	return n, nil
}

// Package kit is what the posture probes run where an attacker would stand: inside a real instance, inside a build step
// and, so that a refusal means something, unconfined. It tries things, and reports which it reached.
//
// It promises three things. What it reports is an effect: an attempt counts as reached when the kernel did it, or when the
// kernel's own check of the right let it through and only then found an argument that is wrong on purpose; never because a
// setting looked so. It harms nothing, wherever it runs, also as root on a bare host: whatever would leave a trace happens
// in a child process, in namespaces of that child's own, or with arguments that the kernel refuses after the check that
// matters; nothing is read but a first byte, nothing is written but what was there. (The kernel's own log may tell of it:
// some of what is tried is unusual enough.) And it leaves nothing out without saying so: what could not be tried is
// reported as such, with the reason, and is neither reached nor refused.
//
// It imports nothing of ours, so that whatever it knows was not given to it. It holds no secret, listens only where it is
// told to (serve, hold) and answers constants. An attacker who owns it has what the instance that he put it into has. He
// could answer a probe falsely; a probe therefore compares it with the same kit's answers where everything is open.
package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the report's form.
const Version = 1

// Report is what a run says on standard output, one JSON object.
type Report struct {
	Version  int       `json:"version"`
	Attempts []Attempt `json:"attempts,omitempty"`
	// Syscalls are the system calls that lead to the kernel's code.
	Syscalls *Syscalls `json:"syscalls,omitempty"`
	// Families are the kinds of sockets that could be made; NETLINK is told by its protocol (NETLINK_ROUTE).
	Families []string `json:"families,omitempty"`
	// Writable are the files below /proc and /sys that could be opened for writing.
	Writable []string `json:"writable,omitempty"`
	// Facts are observations that are neither good nor bad by themselves.
	Facts map[string]string `json:"facts,omitempty"`
}

// Attempt is one thing that was tried.
type Attempt struct {
	Name string `json:"name"`
	// Shape is the published escape that the attempt replays, as CVE-2024-21626, or empty.
	Shape   string `json:"shape,omitempty"`
	Reached bool   `json:"reached"`
	// Untried says that it could not be tried here; Detail says why. It is then not known whether it can be reached.
	Untried bool   `json:"untried,omitempty"`
	Detail  string `json:"detail"`
}

// Syscalls are the system calls that lead to the kernel's code.
type Syscalls struct {
	Reachable int      `json:"reachable"`
	Names     []string `json:"names"`
	// How says how they were told apart.
	How string `json:"how"`
}

// maxReport is far more than any run says.
const maxReport = 1 << 20

// Parse reads a report. What it does not know, it refuses: a report comes out of a place that an attacker may own.
func Parse(b []byte) (*Report, error) {
	if len(b) > maxReport {
		return nil, errors.New("the report is too long")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := &Report{}
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("the report cannot be read: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the report")
	}
	if r.Version != Version {
		return nil, fmt.Errorf("the report has version %d, not %d", r.Version, Version)
	}
	return r, nil
}

func (r *Report) write(w io.Writer) error {
	r.Version = Version
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// outcome is what came of an attempt.
type outcome struct {
	Reached bool
	Untried bool
	Detail  string
}

func reached(format string, args ...any) outcome {
	return outcome{Reached: true, Detail: fmt.Sprintf(format, args...)}
}

func refused(format string, args ...any) outcome {
	return outcome{Detail: fmt.Sprintf(format, args...)}
}

func untried(format string, args ...any) outcome {
	return outcome{Untried: true, Detail: fmt.Sprintf(format, args...)}
}

// did is the outcome of a call that does something if it is let.
func did(err error) outcome {
	if err != nil {
		return refused("%v", err)
	}
	return reached("done")
}

// past is the outcome of a call with an argument that is wrong on purpose: these errors come after the check of the
// right, so whoever gets one of them holds it.
func past(err error, after ...error) outcome {
	for _, a := range after {
		if errors.Is(err, a) {
			return reached("the right is held: the kernel went on to the wrong argument (%v)", err)
		}
	}
	return did(err)
}

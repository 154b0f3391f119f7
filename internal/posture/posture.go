// Package posture attacks the installation that it runs in, again and again, and keeps signed records of what held.
//
// It promises that a control passes only if every attack was refused in this run and, in the same run, something proved that
// the attack would have been noticed had it not been refused: a listener that was alive, a marker that was found elsewhere, the
// same attack on a plain twin. What was not proved, could not be tried, or is older than its period is unknown and never
// passes. Each run has a number and names the record before it, so that one which was dropped shows; each is signed by a key
// that the node vouches for.
//
// It runs as root, because it looks at every process's effective settings and into every namespace. It has no network listener, reads
// what comes from instances with bounds, and takes from the server nothing but which controls to run now. Whoever owns it owns the
// machine. Whoever owns the server can withhold its records, which then are unknown, and cannot make one.
package posture

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Control is a promise with the probe that attacks it.
type Control struct {
	ID      string // in CONTROLS.md: "ISO-1"
	Promise string // a sentence
	Tries   string // what the probe does, a sentence
	Version int    // of the probe; raised when it tries something else
	Every   time.Duration
	// Probe attacks. An error means that it could not, which leaves the control unknown unless an attack had come through before.
	Probe func(ctx context.Context, w *World, r *Record) error
}

// maxChecks and maxDetail bound a record: what is in it comes in part from inside instances.
const (
	maxChecks = 500
	maxDetail = 300
)

// Record collects what a probe saw.
type Record struct {
	proven, attacks []postureapi.Check
}

// Proven notes a positive control: something that has to be so for the attacks to mean anything.
func (r *Record) Proven(what string, ok bool, detail string) {
	r.proven = noted(r.proven, what, ok, detail)
}

// Refused notes an attack, and whether it was refused.
func (r *Record) Refused(what string, refused bool, detail string) {
	r.attacks = noted(r.attacks, what, refused, detail)
}

func noted(to []postureapi.Check, what string, held bool, detail string) []postureapi.Check {
	if len(to) == maxChecks {
		// What does not fit must not hide what did not hold: it takes the place of something that did.
		if held {
			return to
		}
		for i := range to {
			if to[i].Held {
				to[i] = postureapi.Check{What: brief(what), Detail: brief(detail)}
				break
			}
		}
		return to
	}
	return append(to, postureapi.Check{What: brief(what), Held: held, Detail: brief(detail)})
}

func brief(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '·'
		}
		return c
	}, s)
}

// judge says what a run amounts to.
func judge(r *Record, err error) (postureapi.Outcome, string) {
	for _, a := range r.attacks {
		if !a.Held {
			return postureapi.Fail, a.What + ": " + a.Detail
		}
	}
	if err != nil {
		return postureapi.Unknown, brief("the probe could not try everything: " + err.Error())
	}
	for _, p := range r.proven {
		if !p.Held {
			return postureapi.Unknown, "not proved in this run: " + p.What + ": " + p.Detail
		}
	}
	if len(r.proven) == 0 || len(r.attacks) == 0 {
		return postureapi.Unknown, "nothing was proved"
	}
	return postureapi.Pass, fmt.Sprintf("%d attacks refused, %d proofs that they would have been seen", len(r.attacks), len(r.proven))
}

// payloadType is that of a signed result.
const payloadType = "application/vnd.bulwark.posture.v1+json"

// Open verifies a signed result with the prober's key, which the node vouches for.
func Open(envelope []byte, key statement.Key) (*postureapi.Result, error) {
	var r postureapi.Result
	if err := statement.Open(envelope, payloadType, key, &r); err != nil {
		return nil, err
	}
	if r.Number == 0 || r.Control == "" || r.Began.IsZero() || r.Every <= 0 {
		return nil, bulwark.Failf(bulwark.KindInvalid, "The record of the probe is not well formed.")
	}
	return &r, nil
}

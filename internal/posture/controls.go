package posture

import "time"

// Controls are all that are probed, in the order of CONTROLS.md. Each is in a file of its own.
func Controls() []Control {
	return []Control{int1(), int2(), int3(), int5(), iso1(), iso2(), iso3(), net1(), net2(), net3(), edg1(), edg2(), edg3(), edg4(), edg5(), edg6(), key3(), res1(), iam2(), iam3(), prv1(), lib1()}
}

// The periods. A run leaves statements in the ledger, entries in the audit log and some releases of the model app, all of which are
// kept: what changes something comes once a day, the rest each hour.
const (
	hourly = time.Hour
	daily  = 24 * time.Hour
	// What could be felt by people comes once a week: a terminal on the machine ends with the process that holds it.
	weekly = 7 * daily
)

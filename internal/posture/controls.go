package posture

import "time"

// Controls are all that are probed, in the order of CONTROLS.md. Each is in a file of its own.
func Controls() []Control {
	return []Control{int1(), int2(), int3(), int5(), iso1(), iso2(), net1(), net2(), net3(), key3(), iam2(), iam3(), prv1(), lib1()}
}

// The periods. What looks at live instances is cheap and comes often; what builds, or is greedy on purpose, comes seldom.
const (
	often  = 15 * time.Minute
	hourly = time.Hour
	daily  = 24 * time.Hour
)

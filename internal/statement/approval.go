package statement

import (
	"fmt"

	"github.com/bulwark-paas/bulwark"
)

// Protect says how many other people have to approve a release of an app. More than before counts at once; anything else is
// asked for, and counts when as many other people have agreed as a release takes.
type Protect struct {
	Approvals int `json:"approvals"` // 0 for none
}

// ProtectApprove agrees with what somebody asked for. Approvals is repeated so that a person has read it: the digest says
// nothing to them.
type ProtectApprove struct {
	Request   bulwark.Digest `json:"request"` // of the envelope that asks
	Approvals int            `json:"approvals"`
}

// Approve says that another person's release may run. Release is the digest of its envelope, so that nothing else can be put
// into the place of what was approved.
type Approve struct {
	Generation uint64         `json:"generation"`
	Release    bulwark.Digest `json:"release"`
}

// Protection is what holds for an app after a statement about it.
type Protection struct {
	Approvals int `json:"approvals" doc:"how many other people have to approve a release; 0 if none"`
	// Asked is what waits for others to agree.
	Asked *Asked `json:"asked,omitempty"`
}

// Asked is a change of an app's protection that others have to agree with.
type Asked struct {
	Approvals int              `json:"approvals"`
	Request   bulwark.Digest   `json:"request" doc:"digest of the statement that asks"`
	Person    bulwark.PersonID `json:"person"`
	Missing   int              `json:"missing" doc:"how many people have to agree yet"`
}

// Approved is the node's word on who approved the release that serves.
type Approved struct {
	Generation uint64 `json:"generation"`
	// Needed is how many approvals of others a release took when this one was promoted; 0 if the app was not protected then.
	Needed int     `json:"needed"`
	By     []Cause `json:"by"`
}

// Waits is the sentence about a release that lacks approvals.
func Waits(app bulwark.AppName, generation uint64, missing int) string {
	whom := "another person"
	if missing > 1 {
		whom = fmt.Sprintf("%d other people", missing)
	}
	return fmt.Sprintf("Release v%[1]d waits for the approval of %[2]s: bulwark releases approve v%[1]d -a %[3]s", generation, whom, app)
}

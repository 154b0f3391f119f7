package tree

import (
	"errors"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Outcome is what a process that unpacks, or looks at what was unpacked, tells the one that started it.
type Outcome struct {
	Digest statement.TreeDigest `json:"digest,omitempty"`
	Error  *bulwark.Error       `json:"error,omitempty"`
}

// Failed is the outcome of a failure; the text of one that is not meant for people is left out.
func Failed(err error) Outcome {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return Outcome{Error: e}
	}
	return Outcome{Error: &bulwark.Error{Kind: bulwark.KindInternal, Message: "The source could not be unpacked.", Hint: "Deploy again; on the machine, see the node's log."}}
}

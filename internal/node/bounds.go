package node

import (
	"fmt"

	"github.com/bulwark-paas/bulwark"
)

// maxInstances is how many instances one app may have at once, one-off ones and those of two releases during a rollout
// included: the server says how many, and nobody signs that.
const maxInstances = 100

// room refuses an instance more than an app may have.
func (n *instances) room(app bulwark.AppID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	many := 0
	for _, i := range n.all {
		if i.App == app {
			many++
		}
	}
	if many >= maxInstances {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The app has %d instances; that is the most.", many), "Scale it down first: bulwark ps scale.", nil)
	}
	return nil
}

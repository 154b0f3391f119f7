package node

import (
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// One app cannot take the machine by the number of its instances; another one is not told off for it.
func TestInstancesOfOneApp(t *testing.T) {
	n := &instances{all: map[bulwark.InstanceID]*instance{}}
	app := bulwark.NewAppID()
	for range maxInstances {
		must(t, n.room(app))
		i := &instance{}
		i.Instance.Instance, i.App = bulwark.NewInstanceID(), app
		n.all[i.Instance.Instance] = i
	}
	isKind(t, n.room(app), bulwark.KindTooLarge)
	must(t, n.room(bulwark.NewAppID()))
}

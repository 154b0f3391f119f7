package instance

import (
	"errors"

	"github.com/bulwark-paas/bulwark"
)

// asUser returns the part of an error that a user may see.
func asUser(err error) (*bulwark.Error, bool) {
	e, ok := errors.AsType[*bulwark.Error](err)
	return e, ok && e.Kind != bulwark.KindInternal
}

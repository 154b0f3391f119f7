package install

import (
	"fmt"

	"github.com/bulwark-paas/bulwark"
)

// BlockSize is how many ids one user namespace gets.
const BlockSize = 65536

// Range is a range of user or group ids.
type Range struct {
	Base  uint32 `json:"base"`
	Count uint32 `json:"count"`
}

// Contains tells whether id is in r.
func (r Range) Contains(id uint32) bool { return id >= r.Base && id-r.Base < r.Count }

// overlaps is written without an addition that could wrap.
func (r Range) overlaps(o Range) bool { return r.Contains(o.Base) || o.Contains(r.Base) }

// User is one of the platform's own unprivileged users; its group has the same number.
type User uint32

// The platform's users. A number is never given to another.
const (
	Server   User = 1
	Edge     User = 2
	Dial     User = 3
	Egress   User = 4
	Resolver User = 5
	Certs    User = 6
	// Workers is the first of WorkerCount users for helpers that read what a builder wrote, each for one helper at a time.
	Workers User = 1024
)

// WorkerCount is how many helpers that work for no single app can run at once.
const WorkerCount = 64

// User returns the user id, which is the group id too, of one of the platform's users.
func (i *Installation) User(u User) uint32 { return i.IDs.Base + uint32(u) }

// Blocks is how many blocks of BlockSize ids the node can hand out; they are numbered from 1.
func (i *Installation) Blocks() uint32 { return i.IDs.Count/BlockSize - 1 }

// Block returns the n-th block for an app or a builder, n from 1 to Blocks.
func (i *Installation) Block(n uint32) (Range, error) {
	if n < 1 || n > i.Blocks() {
		return Range{}, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The installation has no user ids left: block %d of %d.", n, i.Blocks()),
			"Destroy apps that are no longer needed, or make a further installation.", nil)
	}
	return Range{Base: i.IDs.Base + n*BlockSize, Count: BlockSize}, nil
}

func (i *Installation) register() register {
	if i.Etc == "" {
		return register{dir: "/etc"}
	}
	return register{dir: i.Etc}
}

// Command bulwark-kit is the attack kit of the posture probes: it tries what an attacker inside an instance or a build
// would try, and says on standard output what it reached. It harms nothing, wherever it is run; internal/posture/kit says
// how.
//
//	bulwark-kit isolation|network|resolve|build|exhaust|serve|hold [FLAG ...]
//
// It holds no secret and has no right but those of the process that started it. An attacker who owns it could make a
// probe believe that an instance is tight; the probes' positive controls are there for that.
package main

import (
	"os"

	"github.com/bulwark-paas/bulwark/internal/posture/kit"
)

func main() {
	os.Exit(kit.Run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

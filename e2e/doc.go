// Package e2e holds end-to-end stories: scripts that three personas (admin, user, attacker) play against the real programs
// and a real installation on this machine. Each hole that is fixed leaves a script here that tells its story.
//
// The tests need root and what `make test` builds; they say so when it is missing. They own nothing on the machine but
// what they make: an installation below the temporary directory, under a name and user ids of its own, on free ports. At the end they
// take it down and look whether anything is left.
package e2e

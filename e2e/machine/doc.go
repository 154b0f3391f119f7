// Package machine is the test on a whole machine: `make machine` boots Debian 12 in a virtual machine that has no network, installs the
// release's package and base images there as their user would, and does what cannot be done to the machine of a developer: it sets
// the clock a year forward and back, cuts the power in the middle of a deploy, and kills what systemd keeps.
//
// It promises that what it says was seen on that machine: every command runs there, and one that does not answer in its time fails
// the test with the machine's own journal. Where KVM cannot run Debian's kernel, the machine is emulated: the same, and many
// times slower. Cutting the power loses what the machine's kernel had not written yet, not what its disk had taken. Whoever owns
// this package can make a broken release look whole; it has no part in the product.
package machine

// Package netpolicy decides which address or host name a process of Bulwark may be led to. It is shared by the builders'
// way out (egress), by the instances' DNS forwarder (resolver) and by the node, which writes firewall rules from it, so
// that the three cannot disagree about what "the internet" is.
//
// It promises: a decision depends on its arguments alone; an address that is not plainly a public unicast one is not
// Open; an IPv6 address that carries an IPv4 address is never more open than the address it carries; a name is compared
// in one form only; and no text that a user can write sets Rule.Private. It does no input or output, keeps no state and
// imports the root package and the standard library alone.
//
// It has no authority. Whoever could change its answers could lead builders and instances into the host's own network,
// which is why unknown ranges are closed and each range has a reason next to it.
package netpolicy

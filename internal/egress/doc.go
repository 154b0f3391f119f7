// Package egress is the builders' only way out: an unprivileged process that speaks HTTP proxy on listeners which lie
// inside the builders' network namespaces. A builder has no route and no DNS, so what is not possible here is not possible.
//
// It promises: a build reaches the hosts and ports on its own allow-list and nothing else; a name is resolved once, here,
// and the connection goes to the very address that was checked, so a name that changes its mind gains nothing; an
// allow-listed name never leads to the machine itself or its link, and to an inner network only if the operator said so
// for that rule; a TLS connection names in its handshake the host that was asked for, in clear; and every connection is
// recorded, refused or not. It takes orders from the node's user only, and it opens no socket to listen on: the node
// makes them and hands them over. It keeps nothing on disk; after a restart the node registers its builds again.
//
// Whoever owns this process can open connections that the host's user of it can open (it runs without privileges), can
// see and alter the builders' plain HTTP traffic and delay the rest, and can leave out entries of its reports. TLS
// between a builder and a registry is not opened here and holds. It cannot enter a builder or an instance, cannot read a
// secret, and what builders fetch is still checked by checksums and locks. What it cannot see is the path or Host
// header inside TLS: an allow-listed host that serves several tenants serves all of them.
package egress

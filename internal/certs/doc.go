// Package certs is the process that has certificates issued for host names that apps claimed: it holds the accounts with certificate
// authorities (ACME, RFC 8555) and the keys, asks, renews, and hands the edge what it serves. It is built on certmagic and acmez.
//
// It promises that a name gets a certificate only if the node says that an app claimed it; that what it has is remembered before it is
// used, so that a kill at any moment loses no certificate and begins no second account; that a name which fails is tried again ever more seldom
// and stands in no other's way; and that what is served goes on being served when authorities, the node or this process are away.
//
// It connects to authorities and to the host's resolvers, to the edge and to the node, and listens nowhere. It opens no file: the node
// keeps for it what it has to remember, sealed. An attacker who owned it would have the keys of claimed names and the accounts, and could have
// certificates issued for them; it sees no traffic, and reaches nothing else of the platform (docs/security.md).
package certs

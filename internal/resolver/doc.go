// Package resolver is the DNS forwarder of the instances: an unprivileged process that answers on sockets which lie in
// the installation's router namespace, by asking the host's own resolvers.
//
// It promises: only instances that the node named are answered, each by its own app's policy; an answer never leads an
// instance to an inner address unless an operator allowed that host for the app (no DNS rebinding); an app that may
// reach its allow-list only cannot ask for other names, so names carry nothing out; the installation's own names are not
// asked for outside; an answer is taken only if it echoes the question, the id and the port, all chosen at random; one
// app learns nothing of another's look-ups, since the cache is kept per app; and no instance can use up what the others
// need. The addresses of an allowed name are told to the node before they are told to the instance, so that the firewall
// is open by the time the instance connects. It takes orders from the node's user only, makes no listening socket and
// keeps nothing on disk.
//
// Whoever owns this process sees what instances look up and can answer falsely: TLS and the firewall's ranges of closed
// addresses still stand behind it, since the node opens no closed address on its word without an operator's rule. It
// cannot enter an instance and holds no secret. Restricting names is no protection against an allow-listed host's own
// DNS servers, which see the labels below their name when a rule has a wildcard.
package resolver

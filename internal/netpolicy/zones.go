package netpolicy

import (
	"fmt"
	"slices"
	"strings"
)

// Zone is a part of an installation that is kept apart from the others.
type Zone string

// The zones. Data services will have one of their own.
const (
	Outside  Zone = "outside"  // who reaches the machine's addresses, and its other users
	Internet Zone = "internet" // what is plainly public, see Classify
	Edge     Zone = "edge"     // the public ports
	Control  Zone = "control"  // the API's and git's ports
	Run      Zone = "run"      // the instances of one app; each app's is another
	Build    Zone = "build"    // a builder; each build's is another
	Egress   Zone = "egress"   // the process that connects for instances and builders
	Names    Zone = "names"    // the resolver
	Certs    Zone = "certs"    // the process that asks certificate authorities
)

// Zones returns all of them.
func Zones() []Zone {
	return []Zone{Outside, Internet, Edge, Control, Run, Build, Egress, Names, Certs}
}

// Proto is how a flow goes.
type Proto string

// The ways. A socket that is handed over crosses no link: who has it was given it by a process that made it where it leads.
const (
	TCP    Proto = "tcp"
	UDP    Proto = "udp"
	Handed Proto = "a socket that is handed over"
)

// Flow is one thing that may go from a zone to another.
type Flow struct {
	From, To Zone
	Proto    Proto
	Port     uint16 // 0 means any, or one that the operator chooses
	How      string // what lets it through, and by which rule
}

// Flows is the whole matrix: what is not in it is refused. The router's rules for instances are made from the rows that begin at Run.
func Flows() []Flow {
	return []Flow{
		{Outside, Edge, TCP, 0, "the ports for http and https (that one by UDP, too), on all addresses or on the loopback alone (installation.json)"},
		{Outside, Control, TCP, 0, "the ports of the API and of git, likewise; nothing is answered without a known key"},
		{Edge, Run, Handed, 0, "made by dial inside the instance's network namespace, or for a sandbox in the router's, on the port of the release and for a host that the app claimed"},
		{Run, Names, UDP, 53, "the router's address; answers lead nowhere by themselves"},
		{Run, Names, TCP, 53, "the same"},
		{Run, Egress, TCP, 0, "whatever is not closed (Closed), and closed ones that egress allow opened; taken over transparently, from the instance's own address only"},
		{Build, Egress, Handed, 0, "the one socket at which the proxy answers; names and resolved addresses are checked"},
		{Egress, Internet, TCP, 0, "for who asked, after the same checks; what nobody opened, the machine itself above all, is refused by rules on the host, too"},
		{Egress, Internet, UDP, 53, "the host's own resolvers, for names that builds ask for"},
		{Egress, Internet, TCP, 53, "the same"},
		{Names, Internet, UDP, 53, "the host's own resolvers alone, by rules on the host"},
		{Names, Internet, TCP, 53, "the same"},
		{Certs, Internet, TCP, 0, "certificate authorities; an address that is not public only if the operator's authority is there, by rules on the host"},
		{Certs, Internet, UDP, 53, "the host's own resolvers, for the authorities' names; the name servers that the operator named, on their ports"},
		{Certs, Internet, TCP, 53, "the same"},
	}
}

// Between returns what may go from a zone to another.
func Between(from, to Zone) []Flow {
	return slices.DeleteFunc(Flows(), func(f Flow) bool { return f.From != from || f.To != to })
}

// Matrix renders the table for people, in Markdown: a row per zone from which, a column per zone to which.
func Matrix() string {
	var b strings.Builder
	b.WriteString("| from \\ to |")
	for _, to := range Zones() {
		fmt.Fprintf(&b, " %s |", to)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Zones())) + "\n")
	for _, from := range Zones() {
		fmt.Fprintf(&b, "| **%s** |", from)
		for _, to := range Zones() {
			var words []string
			for _, f := range Between(from, to) {
				word := string(f.Proto)
				if f.Proto == Handed {
					word = "handed"
				}
				if f.Port != 0 {
					word += fmt.Sprintf(" %d", f.Port)
				}
				words = append(words, word)
			}
			fmt.Fprintf(&b, " %s |", strings.Join(words, ", "))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n| from | to | how | what lets it through |\n|---|---|---|---|\n")
	for _, f := range Flows() {
		how := string(f.Proto)
		if f.Port != 0 {
			how += fmt.Sprintf(", port %d", f.Port)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.From, f.To, how, f.How)
	}
	return b.String()
}

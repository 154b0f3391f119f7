package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netns"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// inward returns the rules of an instance's own namespace: who came into it from outside connects to the port that it serves at and
// sends nothing else. The kernel shows the owner of a socket as the namespace's owner would see it, so one of whom its ids know nothing
// has the overflow id (user_namespaces(7)), which none of the app's processes has. The app itself is not touched by them, and cannot
// touch them.
func inward(to netip.AddrPort) string {
	return strings.Join([]string{
		"table inet bulwark",
		"delete table inet bulwark",
		"table inet bulwark {",
		"\tchain begin {",
		"\t\ttype filter hook output priority filter; policy accept;",
		fmt.Sprintf("\t\tmeta skuid %d ip daddr %s tcp dport %d accept", overflow, to.Addr(), to.Port()),
		fmt.Sprintf("\t\tmeta skuid %d meta l4proto tcp reject with tcp reset", overflow),
		fmt.Sprintf("\t\tmeta skuid %d drop", overflow),
		"\t}",
		"}",
	}, "\n") + "\n"
}

// overflow is the id of users that a user namespace does not know (/proc/sys/kernel/overflowuid; nobody changes it).
const overflow = 65534

// Inward has whoever is let into the network namespace of process pid connect to one address and port of it alone.
func Inward(ctx context.Context, pid int, to netip.AddrPort) error {
	nft, err := process.Look("nft", "nftables")
	if err != nil {
		return err
	}
	err = onThread(func() error {
		ns, err := netns.GetFromPid(pid)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return process.Run(ctx, process.Cmd{Path: nft, Args: []string{"-f", "-"}, Stdin: strings.NewReader(inward(to))})
	})
	if err != nil {
		return fmt.Errorf("network: the rules of an instance: %w", err)
	}
	return nil
}

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// nft runs the program in the calling thread's network namespace. A child is forked by the thread that asks for it, so it begins there.
func nft(ctx context.Context, stdin string, stdout io.Writer, args ...string) error {
	path, err := process.Look("nft", "nftables")
	if err != nil {
		return err
	}
	return process.Run(ctx, process.Cmd{Path: path, Args: args, Stdin: strings.NewReader(stdin), Stdout: stdout})
}

// generation counts changes of the rules in the calling thread's network namespace, whoever makes them (NFT_MSG_GETGEN,
// include/uapi/linux/netfilter/nf_tables.h).
func generation() (uint32, error) {
	const id = 1 // NFTA_GEN_ID
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC})
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("network: %w", err)
	}
	for _, a := range answers {
		if len(a) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(a[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("network: %w", err)
		}
		for _, at := range attrs {
			if at.Attr.Type&0x3fff == id && len(at.Value) == 4 {
				return binary.BigEndian.Uint32(at.Value), nil
			}
		}
	}
	return 0, errors.New("network: the kernel does not say which rules are in force")
}

// Generation counts changes of the rules in the router's namespace, whoever makes them.
func (r *Router) Generation() (n uint32, err error) {
	err = r.onThreadIn(func() error {
		n, err = generation()
		return err
	})
	return n, err
}

// Apply puts rules into force, all at once or, if they are not valid, not at all.
func (r *Router) Apply(ctx context.Context, rules string) error {
	return r.onThreadIn(func() error { return nft(ctx, rules, nil, "-f", "-") })
}

// Ruled tells whether there are rules in force, as a predecessor leaves them.
func (r *Router) Ruled(ctx context.Context) bool {
	return r.onThreadIn(func() error { return nft(ctx, "", io.Discard, "list", "table", "inet", "bulwark") }) == nil
}

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/process"
)

func (c *cli) verifyCommand() *cobra.Command {
	cmd := c.namesApp(command("verify [APP]", "Verify an app from a person's signature to what runs now",
		"  $ bulwark verify shop\n  $ bulwark verify shop --json", nil, func(ctx context.Context, _ []string) error { return c.verify(ctx) }))
	cmd.Long = `Fetches the evidence for the release that serves and verifies it on this machine, with the node's key that came with
your login token: the person's signature, the commit, the builder, the image's digest, the release statement, and what
runs now, for which the node signs an answer to a question that was never asked before. The server is not believed.

The exit code is 1 if anything does not hold. A "-" marks what only the node can vouch for: a statement that was signed
on another person's device.`
	return cmd
}

// changeTime is how long instances of a release that was replaced may go on: to finish their requests, and to end.
const changeTime = 75 * time.Second

// verified is the outcome of verify.
type verified struct {
	App   bulwark.AppName `json:"app"`
	Holds bool            `json:"holds"`
	chain
	Local string       `json:"local,omitempty"` // what the git repository here knows of the commit: "head", "known"
	Proof client.Proof `json:"proof"`
}

func (c *cli) verify(ctx context.Context) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	c.watchLog(ctx, s)
	e := evidence{app: name, node: s.server.key(), device: s.device.Public().(ed25519.PublicKey)}
	var found *chain
	p := c.progress("Fetching the evidence")
	for until := time.Now().Add(changeTime); ; {
		var question [32]byte
		rand.Read(question[:]) // never fails: crypto/rand aborts the process instead
		e.challenge = hex.EncodeToString(question[:])
		if e.proof, err = s.Proof(ctx, name, e.challenge); err != nil {
			break
		}
		if found = verifyChain(e); !found.changing() || time.Now().After(until) {
			break
		}
		p.set("Waiting for instances of another release to end")
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(time.Second):
		}
		if err != nil {
			break
		}
	}
	p.end()
	if err != nil {
		return err
	}
	out := verified{App: name, Holds: found.holds(), chain: *found, Proof: e.proof}
	if out.Local, err = c.localCommit(ctx, found.Commit); err != nil {
		return err
	}
	if err := c.result(out, func() { c.showChain(&out) }); err != nil {
		return err
	}
	if !out.Holds {
		return bulwark.Fail(bulwark.KindFailed, "What runs of "+string(name)+" is not verified.",
			"Do not trust it until the broken link is explained; show the operator the output of bulwark verify --json.", nil)
	}
	return nil
}

func (c *cli) showChain(v *verified) {
	marks := map[string]string{linkHolds: "ok", linkVouched: "-", linkBroken: "BROKEN"}
	if c.utf8 {
		marks = map[string]string{linkHolds: "✓", linkVouched: "–", linkBroken: "✗"}
	}
	styles := map[string]string{linkHolds: green, linkVouched: yellow, linkBroken: red}
	c.head("%s %s", v.App, releaseName(v.Release))
	width := 0
	for _, m := range marks {
		width = max(width, len([]rune(m)))
	}
	for _, l := range v.Links {
		mark := marks[l.State]
		fmt.Fprintf(c.stdout, "%s%*s  %-17s  %s\n", c.paint(styles[l.State], mark), width-len([]rune(mark)), "", l.Name, clean(l.Detail))
	}
	switch v.Local {
	case localHead:
		c.say("The commit is the HEAD of the git repository here.")
	case localKnown:
		c.say("The git repository here has the commit; its HEAD is another.")
	}
	if v.Holds {
		c.say("All of it holds.")
	}
}

// What the git repository in the current directory knows of a commit.
const (
	localHead  = "head"
	localKnown = "known"
)

// localCommit says whether the repository here has the commit, and whether it is its HEAD; "" if not.
func (c *cli) localCommit(ctx context.Context, commit bulwark.Commit) (string, error) {
	if commit == "" {
		return "", nil
	}
	absent := func(err error) (string, error) {
		if _, failed := errors.AsType[*process.ExitError](err); failed || bulwark.KindOf(err) == bulwark.KindUnavailable {
			return "", nil // git says no, or there is no git
		}
		return "", err
	}
	if _, err := c.git(ctx, "cat-file", "-e", string(commit)+"^{commit}"); err != nil {
		return absent(err)
	}
	head, err := c.git(ctx, "rev-parse", "--verify", "--quiet", "HEAD")
	if err != nil {
		if _, err := absent(err); err != nil {
			return "", err
		}
	}
	if head == string(commit) {
		return localHead, nil
	}
	return localKnown, nil
}

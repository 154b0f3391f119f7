package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) packagesCommand() *cobra.Command {
	cmd := command("packages NAME[@VERSION]", "Find which running releases contain a package",
		"  $ bulwark packages openssl\n  $ bulwark packages golang.org/x/net@v0.40.0\n  $ bulwark packages @babel/core@7.24.0", exactly(1, "the name of a package"),
		func(ctx context.Context, args []string) error { return c.packages(ctx, args[0]) })
	cmd.Long = `Finds a Debian, Go, npm or Python package in the releases that serve, of all apps that you may look at. A Debian package is found by
the name of its source too. The answer comes from what the node found in each image when it was admitted.`
	return cmd
}

func (c *cli) packages(ctx context.Context, what string) error {
	name, version := what, ""
	// A name of npm's may begin with "@".
	if i := strings.LastIndexByte(what, '@'); i > 0 {
		name, version = what[:i], what[i+1:]
		if version == "" {
			return misuse("The version after the @ is missing in "+quote(what)+".", "Leave the @ out to find every version.")
		}
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	got, err := s.Packages(ctx, name, version)
	if err != nil {
		return err
	}
	out := struct {
		Name    string                `json:"name"`
		Version string                `json:"version,omitempty"`
		Found   []client.PackageFound `json:"found"`
		Unknown []bulwark.AppName     `json:"unknown"`
	}{name, version, list(got.Found), list(got.Unknown)}
	return c.result(out, func() {
		if len(got.Found) == 0 {
			c.empty("No running release contains %s.", what)
		}
		rows := [][]string{}
		for _, f := range got.Found {
			rows = append(rows, []string{string(f.App), fmt.Sprintf("v%d", f.Release), f.Kind, f.Name, f.Version})
		}
		c.table(rows)
		for _, a := range got.Unknown {
			c.note("Warning: not everything in %s could be looked into; bulwark builds sbom -a %s says what.", a, a)
		}
	})
}

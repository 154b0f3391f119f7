package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) registriesCommand() *cobra.Command {
	var packages bool
	var ca string
	allow := command("allow HOST[:PORT]", "Let builds take images, or packages, from a host",
		"  $ bulwark registries allow registry.example.org\n  $ bulwark registries allow registry.internal:5000 --ca ca.pem\n"+
			"  $ bulwark registries allow --packages npm.internal:4873", exactly(1, "a host"),
		func(ctx context.Context, args []string) error { return c.allowRegistry(ctx, args[0], packages, ca) })
	allow.Long = `Lets the builds of all apps reach a host. A Dockerfile's FROM may then name images of it; the registry must speak TLS. Without
a port it is 443.

With --packages, builds reach the host and no FROM may name it: a private package registry, or a host that a registry of
images sends its clients to for a token or for layers (bulwark builds show lists what a build was refused). It may be
*.HOST then, and without a port it is 443 and 80.

The name may lead to an inner address, on this port alone; *.HOST leads to the internet only. Allowing a host again takes
the place of what was said before. Registries that ask for a password cannot be used yet.`
	allow.Flags().BoolVar(&packages, "packages", false, "for packages and other downloads: no FROM may name it")
	allow.Flags().StringVar(&ca, "ca", "", "file with the certificates of the registry's own authority, in PEM form")
	if err := allow.MarkFlagFilename("ca"); err != nil {
		panic(err) // the flag was made one line above
	}
	allow.ValidArgsFunction = cobra.NoFileCompletions
	remove := command("remove HOST[:PORT]", "Take a host away from builds again", "  $ bulwark registries remove registry.internal:5000",
		exactly(1, "a host"), func(ctx context.Context, args []string) error { return c.removeRegistry(ctx, args[0]) })
	remove.Aliases = []string{"deny"}
	remove.ValidArgsFunction = c.completeRegistry
	ls := command("list", "List the hosts that builds may reach", "  $ bulwark registries list", exactly(0, ""), c.listRegistries)
	return group("registries", "Allow, list and remove the registries that builds may use", "  $ bulwark registries\n  $ bulwark registries allow registry.example.org",
		c.listRegistries, allow, remove, ls)
}

func (c *cli) allowRegistry(ctx context.Context, host string, packages bool, ca string) error {
	to, err := netpolicy.ParseRegistry(host, !packages)
	if err != nil {
		return usage(err)
	}
	body := statement.Registry{Host: to.HostPort(), Packages: packages}
	if ca != "" {
		if packages {
			return misuse("--ca and --packages do not go together.",
				"What a build step trusts comes from the platform's machine: add the authority there, and start bulwark again.")
		}
		if body.CA, err = readAuthorities(ca); err != nil {
			return err
		}
	}
	done := "Builds may take images from %s now."
	if packages {
		done = "Builds may reach %s now."
	}
	return c.registry(ctx, statement.KindRegistryAllow, body.Host, body, fmt.Sprintf(done, body.Host))
}

func (c *cli) removeRegistry(ctx context.Context, host string) error {
	to, err := netpolicy.ParseRegistry(host, false)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	all, err := s.Registries(ctx)
	if err != nil {
		return err
	}
	// A registry of images on 443 is written without its port.
	name := to.HostPort()
	if images, err := netpolicy.ParseRegistry(host, true); err == nil && !hasRegistry(all, name) && hasRegistry(all, images.HostPort()) {
		name = images.HostPort()
	}
	return c.registry(ctx, statement.KindRegistryRemove, name, statement.RegistryRemove{Host: name}, fmt.Sprintf("Builds may no longer reach %s.", name))
}

func hasRegistry(all []client.Registry, host string) bool {
	for _, r := range all {
		if r.Host == host {
			return true
		}
	}
	return false
}

// registry signs and sends a change of what builds may reach, and says what is so now.
func (c *cli) registry(ctx context.Context, kind statement.Kind, host string, body any, done string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(kind, "", body)
	if err != nil {
		return err
	}
	if err := c.during("Changing what builds may reach", func() error { return s.SetRegistry(ctx, signed) }); err != nil {
		return err
	}
	out := struct {
		Host string         `json:"host"`
		Kind statement.Kind `json:"kind"`
	}{host, kind}
	return c.result(out, func() { c.say("%s", done) })
}

// readAuthorities reads a file of certificates. What else the file has stays here: beside a certificate there is often
// its private key.
func readAuthorities(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", misuse("The file "+quote(path)+" cannot be read.", "Give the file with the certificate of the registry's authority.")
	}
	var out []byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", misuse("The file "+quote(path)+" has a "+quote(block.Type)+" in it.", "Give a file with certificates alone.")
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err != nil || !cert.IsCA {
			return "", misuse("A certificate in "+quote(path)+" is not an authority's.", "Give the certificate that signed the registry's own.")
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if out == nil {
		return "", misuse("The file "+quote(path)+" has no certificate in PEM form.", "Give the file with the certificate of the registry's authority.")
	}
	return string(out), nil
}

func (c *cli) listRegistries(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	all, err := s.Registries(ctx)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		if len(all) == 0 {
			c.empty("No registry is allowed: a Dockerfile's FROM may name the platform's bases only.")
			return
		}
		c.head("Hosts that builds may reach")
		var rows [][]string
		for _, r := range all {
			use, authority := "images", ""
			if r.Packages {
				use = "packages"
			}
			if r.CA != "" {
				authority = "own authority"
			}
			rows = append(rows, []string{r.Host, use, authority, ago(c.now(), r.Created), string(r.Person)})
		}
		c.table(rows)
	})
}

// completeRegistry offers the hosts that are allowed; like completeApp it is quick or silent.
func (c *cli) completeRegistry(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	s, err := c.signedIn(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := s.Registries(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var hosts []string
	for _, r := range all {
		hosts = append(hosts, r.Host)
	}
	return hosts, cobra.ShellCompDirectiveNoFileComp
}

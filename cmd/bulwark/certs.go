package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/certchain"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) certsCommand() *cobra.Command {
	add := c.forApp(command("add CHAIN KEY", "Bring a certificate for an app's host names", "  $ bulwark certs add fullchain.pem privkey.pem",
		exactly(2, "a file of certificates and the file of the key"), c.addCertificate))
	add.Long = `Has an app's host names served with a certificate that you bring: CHAIN is a file in PEM with the certificate for the host names first, then
those that lead to its authority; KEY is its private key, which is sealed on this machine for the node. It serves all names that it covers
and that the app has claimed. Bring the next one in the same way; nobody else renews it. A week before it ends an authority is asked for
another, so that the name goes on being served.`
	remove := c.forApp(command("remove HOST", "Take away what you brought for a host name", "  $ bulwark certs remove www.example.org", exactly(1, "a host name"), c.removeCertificate))
	retry := command("retry HOST", "Have an authority asked at once for a host name's certificate", "  $ bulwark certs retry www.example.org", exactly(1, "a host name"), c.retryCertificate)
	retry.Long = `Has it tried at once to get or renew a certificate, where bulwark certs shows that it failed and you have put right what was wrong: by itself it is tried less and
less often, up to every six hours. Authorities count failures, so it is tried once a minute at most, and renewals once in half an hour for all names together.`
	caa := command("caa HOST", "Show DNS records by which nobody else gets a certificate for a host name", "  $ bulwark certs caa example.org", exactly(1, "a host name"), c.showCAA)
	caa.Long = `Shows CAA records that bind a host name to the accounts that this installation has with its certificate authorities (RFC 8657): whoever takes over the name's
address, or the way there, gets no certificate for it then, from those authorities nor from others. Set them at whoever serves the name's DNS.`
	list := command("list", "Show how the certificates of claimed host names stand", "  $ bulwark certs list", exactly(0, ""), c.listCertificates)
	cmd := group("certs", "Show, bring and remove certificates of claimed host names", "  $ bulwark certs\n  $ bulwark certs add fullchain.pem privkey.pem", c.listCertificates, list, add, remove, retry, caa)
	cmd.Long = `Shows each host name that your apps claimed: who issued its certificate, until when it is good, and when it is renewed. While there is
none yet, or a renewal fails, it says why and when it is tried again. Until then the host is served with a certificate that nobody vouches
for. Certificates are issued and renewed by themselves; the host name's DNS record has to point at the server.`
	return cmd
}

func (c *cli) listCertificates(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	all, err := s.Certificates(ctx)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		if len(all) == 0 {
			c.empty("No app has claimed a host name. See bulwark domains add.")
			return
		}
		rows := [][]string{}
		for _, v := range all {
			rows = append(rows, []string{string(v.Host), string(v.App), clean(v.Stage), certificateNote(v)})
		}
		c.table(rows)
	})
}

// addCertificate brings a certificate.
func (c *cli) addCertificate(ctx context.Context, args []string) error {
	text, err := readPEM(args[0])
	if err != nil {
		return err
	}
	key, err := readPEM(args[1])
	if err != nil {
		return err
	}
	all, err := certchain.Parse(text, c.now())
	if err != nil {
		return err
	}
	if err := certchain.Pair(text, key); err != nil {
		return err
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	var covered []string
	for _, h := range app.Domains {
		if certchain.Covers(all[0], h) {
			covered = append(covered, string(h))
		}
	}
	if len(covered) == 0 {
		return bulwark.Invalid(fmt.Sprintf("The certificate, for %q, is for no host name that %s has claimed.", all[0].DNSNames, name), "Claim the host name first: bulwark domains add.")
	}
	if issuer := untrusted(all, c.now()); issuer != "" {
		c.note("This machine does not trust who issued it (%s): where that is so for browsers too, add the certificates that are missing in the chain.", issuer)
	}
	done := fmt.Sprintf("%s is served with it, until %s.", strings.Join(covered, ", "), all[0].NotAfter.UTC().Format(time.DateOnly))
	return c.settingBy(name, statement.KindCertAdd, done, func() error {
		return s.sealed(ctx, app, seal.UseCert, map[bulwark.ConfigName][]byte{certchain.Name(all[0]): key}, statement.ConfigSet{}, func(body statement.ConfigSet) error {
			return s.set(ctx, name, app.ID, statement.KindCertAdd, statement.CertAdd{Chain: text, Key: body})
		})
	})
}

// retryCertificate has an authority asked at once.
func (c *cli) retryCertificate(ctx context.Context, args []string) error {
	s, v, err := c.certificateOf(ctx, args[0])
	if err != nil {
		return err
	}
	switch v.Stage {
	case stageForeign, stageBrought:
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("For %s no authority is asked: %s.", v.Host, certificateNote(v)), "", nil)
	}
	if err := s.RetryCertificate(ctx, v.App, v.Host); err != nil {
		return err
	}
	return c.result(map[string]bulwark.HostName{"host": v.Host}, func() { c.say("A certificate for %s is tried; see bulwark certs.", v.Host) })
}

// showCAA shows records that bind a host name to this installation's accounts.
func (c *cli) showCAA(ctx context.Context, args []string) error {
	_, v, err := c.certificateOf(ctx, args[0])
	if err != nil {
		return err
	}
	if len(v.CAA) == 0 {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("No account with an authority is known that has to do with %s.", v.Host), "Accounts are made with the first certificate; see bulwark certs.", nil)
	}
	name, tag := string(v.Host), "issue"
	if below, ok := v.Host.Wildcard(); ok {
		name, tag = string(below), "issuewild"
	}
	var lines []string
	for _, value := range v.CAA {
		lines = append(lines, fmt.Sprintf("%s. CAA 128 %s %q", name, tag, value))
	}
	if tag == "issue" {
		lines = append(lines, fmt.Sprintf("%s. CAA 128 issuewild \";\"", name))
	}
	return c.result(lines, func() {
		for _, l := range lines {
			fmt.Fprintln(c.stdout, clean(l))
		}
		c.note("A record at %s counts for names below it, too, unless those have records of their own.", name)
	})
}

// certificateOf is how the certificate of a host name stands.
func (c *cli) certificateOf(ctx context.Context, text string) (*session, client.Certificate, error) {
	host, err := parseDomain(text)
	if err != nil {
		return nil, client.Certificate{}, usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return nil, client.Certificate{}, err
	}
	all, err := s.Certificates(ctx)
	if err != nil {
		return nil, client.Certificate{}, err
	}
	for _, v := range all {
		if v.Host == host {
			return s, v, nil
		}
	}
	return nil, client.Certificate{}, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("No app of yours has claimed %s.", host), "See bulwark certs; claim it with bulwark domains add.", nil)
}

// untrusted is who issued a certificate that does not lead to an authority which this machine trusts; empty if it does.
func untrusted(all []*x509.Certificate, now time.Time) string {
	middle := x509.NewCertPool()
	for _, m := range all[1:] {
		middle.AddCert(m)
	}
	if _, err := all[0].Verify(x509.VerifyOptions{Intermediates: middle, CurrentTime: now}); err == nil {
		return ""
	}
	return clean(all[len(all)-1].Issuer.String())
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, certchain.MaxBytes+1)); err == nil {
			return b, nil
		}
	}
	return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s cannot be read.", path), "Give files in PEM.", err)
}

func (c *cli) removeCertificate(ctx context.Context, args []string) error {
	host, err := parseDomain(args[0])
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.setting(ctx, s, name, app.ID, statement.KindCertRemove, statement.CertRemove{Host: host}, fmt.Sprintf("%s is no longer served with what you brought; see bulwark certs.", host))
}

// stageBrought is the stage of a name with a certificate that its people brought.
const stageBrought = "brought"

// stageForeign is the stage of a name for which no public authority is asked.
const stageForeign = "foreign"

// certificateNote says what matters of a certificate.
func certificateNote(v client.Certificate) string {
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case v.Stage == stageForeign:
		return "no public authority is asked for this name; it is served with a certificate of its own making"
	case v.Stage == stageBrought:
		return fmt.Sprintf("%s, until %s; bring the next one with bulwark certs add", clean(v.Issuer), day(v.NotAfter))
	case !v.NotAfter.IsZero() && v.Error != "":
		return fmt.Sprintf("%s, until %s; renewal fails: %s", clean(v.Issuer), day(v.NotAfter), clean(v.Error))
	case !v.NotAfter.IsZero():
		return fmt.Sprintf("%s, until %s, renewed by %s", clean(v.Issuer), day(v.NotAfter), day(v.RenewAt))
	case v.Error != "":
		return fmt.Sprintf("%s; tried %d times, again at %s", clean(v.Error), v.Failures, v.Next.UTC().Format(time.DateTime))
	}
	return "no certificate yet"
}

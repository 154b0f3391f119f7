package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) certsCommand() *cobra.Command {
	cmd := command("certs", "Show how the certificates of claimed host names stand", "  $ bulwark certs", exactly(0, ""), c.listCertificates)
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

// stageForeign is the stage of a name for which no public authority is asked.
const stageForeign = "foreign"

// certificateNote says what matters of a certificate.
func certificateNote(v client.Certificate) string {
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case v.Stage == stageForeign:
		return "no public authority is asked for this name; it is served with a certificate of its own making"
	case !v.NotAfter.IsZero() && v.Error != "":
		return fmt.Sprintf("%s, until %s; renewal fails: %s", clean(v.Issuer), day(v.NotAfter), clean(v.Error))
	case !v.NotAfter.IsZero():
		return fmt.Sprintf("%s, until %s, renewed by %s", clean(v.Issuer), day(v.NotAfter), day(v.RenewAt))
	case v.Error != "":
		return fmt.Sprintf("%s; tried %d times, again at %s", clean(v.Error), v.Failures, v.Next.UTC().Format(time.DateTime))
	}
	return "no certificate yet"
}

package edge

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// An authority's word that a certificate is not revoked is shown as long as it holds: browsers take an old one for a sign that something is hidden.
func TestStapleEnds(t *testing.T) {
	for what, until := range map[string]time.Duration{"good": time.Hour, "old": -time.Minute} {
		r := newRig(t, nil)
		ca := newAuthority(t)
		c := ca.issue(t, "", "localhost")
		c.OCSP, c.OCSPUntil = []byte("not revoked"), time.Now().Add(until)
		if err := r.issued.PutCertificates(t.Context(), []bulwark.Certificate{c}); err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(conn.ConnectionState().OCSPResponse) > 0; got != (until > 0) {
			t.Errorf("%s: shown: %t", what, got)
		}
		conn.Close()
	}
}

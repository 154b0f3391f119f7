package certs

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// issuer is the authority as this process sees it, with what is kept of it.
func (b *bed) issuer() *issuer {
	i, err := newIssuer(certsapi.Authority{Directory: b.ca.Directory, Roots: b.ca.Roots}, "", newNode(filepath.Join(b.dir, "node")), nil, func([]string, error) {})
	if err != nil {
		b.t.Fatal(err)
	}
	return i
}

func (b *bed) accountKey() crypto.PublicKey {
	b.t.Helper()
	i := b.issuer()
	return must(i.readKey(b.t.Context(), i.keyAt()))(b.t).Public()
}

// The key of an account is replaced when it is old; the account stays.
func TestAccountKeyChanges(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	first, account := b.accountKey(), must(b.issuer().kept.Load(t.Context(), b.issuer().accountAt()))(t)
	b.stop()
	b.pace.Account = time.Millisecond
	b.run()
	b.order("a.example.org", "b.example.org")
	b.until("issued by another key", time.Minute, b.serves("b.example.org"))
	if first.(interface{ Equal(crypto.PublicKey) bool }).Equal(b.accountKey()) {
		t.Error("the key is the same")
	}
	if now := must(b.issuer().kept.Load(t.Context(), b.issuer().accountAt()))(t); string(now) != string(account) {
		t.Errorf("another account: %s, before %s", now, account)
	}
}

// Who is killed in the middle of a change of keys finds out which one the authority has.
func TestAccountKeyChangeIsCutOff(t *testing.T) {
	for name, told := range map[string]bool{"before the authority was told": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			b.run()
			b.order("a.example.org")
			b.until("issued", time.Minute, b.serves("a.example.org"))
			b.stop()
			i := b.issuer()
			account := must(i.ours(t.Context()))(t)
			next, text, err := newAccountKey()
			if err == nil {
				err = i.kept.Store(t.Context(), i.nextKeyAt(), text)
			}
			if err == nil && told {
				_, err = i.client.AccountKeyRollover(t.Context(), *account, next)
			}
			if err != nil {
				t.Fatal(err)
			}
			b.run()
			b.order("a.example.org", "b.example.org")
			b.until("issued", time.Minute, b.serves("b.example.org"))
			if is := next.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.accountKey()); is != told {
				t.Error("the key that is to follow was taken:", is)
			}
			if _, err := i.kept.Load(t.Context(), i.nextKeyAt()); err == nil {
				t.Error("it is still kept as the one to follow")
			}
		})
	}
}

// Who sets the CAA record that is shown has nobody else get a certificate (RFC 8657).
func TestCAA(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org", "app.bulwark.localhost")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	account := must(b.issuer().ours(t.Context()))(t)
	b.until("the record is told", 20*time.Second, func() error {
		s, err := b.status("a.example.org")
		if err != nil || len(s.CAA) != 1 || s.CAA[0] != "pebble.letsencrypt.org; accounturi="+account.Location {
			return fmt.Errorf("%+v %w", s, err)
		}
		if s, err = b.status("app.bulwark.localhost"); err != nil || len(s.CAA) != 0 {
			return fmt.Errorf("%+v %w", s, err)
		}
		return nil
	})
}

// What an authority says of a certificate not being revoked is shown with it, as long as it says so.
func TestStaple(t *testing.T) {
	var ca *acmetest.CA
	var asked atomic.Int32
	l := tcp(t)
	responder := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		q, err := ocsp.ParseRequest(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		issuer, key, err := ca.Intermediate()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out, err := ocsp.CreateResponse(issuer, issuer, ocsp.Response{Status: ocsp.Good, SerialNumber: q.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}, key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/ocsp-response")
		w.Write(out)
	})}
	go responder.Serve(l)
	t.Cleanup(func() { responder.Close() })
	b := newBed(t, func(c *acmetest.Config) { c.OCSP = "http://" + l.Addr().String() })
	ca = b.ca
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	b.until("a staple is shown", 20*time.Second, func() error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", b.https, &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.org"})
		if err != nil {
			return err
		}
		defer c.Close()
		s := c.ConnectionState()
		if len(s.OCSPResponse) == 0 {
			return errors.New("none; the responder was asked " + fmt.Sprint(asked.Load()) + " times")
		}
		issuer, _, err := ca.Intermediate()
		if err != nil {
			return err
		}
		r, err := ocsp.ParseResponseForCert(s.OCSPResponse, s.PeerCertificates[0], issuer)
		if err == nil && r.Status != ocsp.Good {
			err = fmt.Errorf("status %d", r.Status)
		}
		return err
	})
}

// Somebody who has put right what was wrong does not wait until it is tried again by itself.
func TestAgain(t *testing.T) {
	b := newBed(t, nil)
	b.pace.First, b.pace.Last = time.Hour, time.Hour
	b.run()
	if err := b.keep.Again("a.example.org", time.Now()); err == nil {
		t.Error("nobody ordered it")
	}
	b.ca.Stop()
	b.order("a.example.org")
	b.until("it fails", time.Minute, func() error {
		s, err := b.status("a.example.org")
		if err == nil && s.Failures == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	if err := b.ca.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := b.keep.Again("a.example.org", time.Now()); err == nil || !strings.Contains(err.Error(), "was tried") {
		t.Error("it may be tried without end:", err)
	}
	if err := b.keep.Again("a.example.org", time.Now().Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	b.until("issued", time.Minute, b.serves("a.example.org"))
	b.until("it is told", 10*time.Second, func() error {
		if s, err := b.status("a.example.org"); err != nil || s.Stage != certsapi.Issued {
			return fmt.Errorf("%+v %w", s, err)
		}
		return nil
	})
	if err := b.keep.Again("a.example.org", time.Now().Add(4*time.Minute)); err == nil || !strings.Contains(err.Error(), "no renewal of it has failed") {
		t.Error("what is good is tried:", err)
	}
}

// Where a renewal fails the process begins anew for it, and not for every tenant as often as they like: issuing for all others would end each time.
func TestHoleRenewalsAtOnce(t *testing.T) {
	const host = "failing.example.org" // of its own: certmagic tries on for a name as long as the process lives
	b := newBed(t, func(c *acmetest.Config) { c.Validity = 15 * time.Second })
	b.run()
	b.order(host)
	b.until("issued", time.Minute, b.serves(host))
	b.ca.Stop()
	b.until("a renewal fails", 30*time.Second, func() error {
		if s, err := b.status(host); err != nil || s.Error == "" {
			return fmt.Errorf("%+v %w", s, err)
		}
		return nil
	})
	at := time.Now().Add(2 * time.Minute)
	if err := b.keep.Again(host, at); err != nil {
		t.Fatal(err)
	}
	b.until("it begins anew", 20*time.Second, func() error {
		if !strings.Contains(b.log.String(), "begins anew") {
			return errors.New("it goes on")
		}
		return nil
	})
	if err := b.keep.Again(host, at.Add(2*time.Minute)); err == nil {
		t.Error("it may be had to begin anew without end")
	}
	b.stop()
}

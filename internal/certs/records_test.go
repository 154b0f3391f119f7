package certs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// A name is proven by a record of the DNS where it may be set: at the name itself, or where a CNAME leads, by a key that is good for nothing else
// of the zone. What was set is taken away again, and where nothing can be set that is said.
func TestRecords(t *testing.T) {
	server := must(acmetest.StartNames(t.TempDir(), "example.org"))(t)
	t.Cleanup(func() { server.Stop() })
	for name, to := range map[string]string{"shop": "shop.auth.example.org.", "ring": "ring.example.org.", "ring.example.org.": "_acme-challenge.ring.example.org."} {
		if !strings.HasSuffix(name, ".") {
			name = "_acme-challenge." + name + ".example.org."
		}
		if err := server.Set("example.org", name, dns.TypeCNAME, to); err != nil {
			t.Fatal(err)
		}
	}
	b := newBed(t, func(c *acmetest.Config) { c.Names = server })
	b.challenges = []string{"dns-01"}
	b.run()
	order := func(name, key string, hosts ...bulwark.HostName) {
		if err := b.keep.Order(certsapi.Orders{Hosts: hosts, Authorities: []certsapi.Authority{{Directory: b.ca.Directory, Roots: b.ca.Roots}},
			Updates: &certsapi.Updates{Server: server.Address, KeyName: name, Algorithm: "hmac-sha256.", Key: key}, NameServer: server.Address}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(host bulwark.HostName, why string) {
		t.Helper()
		b.until("why not", time.Minute, func() error {
			s, err := b.status(host)
			if err == nil && !strings.Contains(s.Error, why) {
				err = errors.New(s.Error)
			}
			return err
		})
	}
	order(server.NarrowKeyName, server.NarrowKey, "www.example.org", "shop.example.org", "ring.example.org", "mail.example.net")
	b.until("a name that is delegated", time.Minute, b.serves("shop.example.org"))
	refused("www.example.org", "the record _acme-challenge.www.example.org was not set: ")
	refused("ring.example.org", "CNAMEs")
	refused("mail.example.net", "example.net")
	order(server.KeyName, server.Key, "www.example.org", "shop.example.org", "*.many.example.org")
	b.until("a name of the zone", time.Minute, b.serves("www.example.org"))
	// One certificate for all names below another; not for that one, and for none that is further below.
	b.until("a pattern", time.Minute, b.serves("any.many.example.org"))
	for _, name := range []bulwark.HostName{"many.example.org", "a.b.many.example.org"} {
		if c, err := b.shown(name); err == nil {
			t.Errorf("%s has a certificate: %v", name, c.DNSNames)
		}
	}
	if said := string(must(os.ReadFile(b.ca.Log))(t)); strings.Contains(said, "validate w/ HTTP") {
		t.Fatal("another challenge was used")
	}
	for _, name := range []string{"_acme-challenge.www.example.org", "shop.auth.example.org"} {
		b.until("the record goes", 10*time.Second, func() error {
			left, err := server.Text(name)
			if err == nil && len(left) > 0 {
				err = errors.New(name + " still says " + left[0])
			}
			return err
		})
	}
	// The key was changed at the name server: what was issued stays, and a new name says why it gets none.
	order(server.KeyName, "bm90IHRoZSBrZXkgdGhhdCBpdCBoYXM=", "www.example.org", "shop.example.org", "new.example.org")
	refused("new.example.org", "was not set")
	must(b.shown("www.example.org"))(t)
	if bytes.Contains(must(os.ReadFile(filepath.Join(b.dir, "certs.db")))(t), []byte(server.Key)) {
		t.Fatal("the key was kept")
	}
}

// That records can be set of some names keeps no other from being proven by what leads here, and one that does not lead here is proven by a record.
func TestRecordsBeside(t *testing.T) {
	server := must(acmetest.StartNames(t.TempDir(), "example.org"))(t)
	t.Cleanup(func() { server.Stop() })
	for name, to := range map[string]string{"_acme-challenge.away": "away.auth.example.org."} {
		if err := server.Set("example.org", name+".example.org", dns.TypeCNAME, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Set("example.org", "away.example.org", dns.TypeA, "127.0.0.2"); err != nil {
		t.Fatal(err)
	}
	b := newBed(t, func(c *acmetest.Config) { c.Names = server })
	b.run()
	hosts := []bulwark.HostName{"away.example.org"}
	for i := range 6 {
		hosts = append(hosts, bulwark.HostName("h"+strconv.Itoa(i)+".example.org"))
	}
	if err := b.keep.Order(certsapi.Orders{Hosts: hosts, Authorities: []certsapi.Authority{{Directory: b.ca.Directory, Roots: b.ca.Roots}},
		Updates: &certsapi.Updates{Server: server.Address, KeyName: server.NarrowKeyName, Algorithm: "hmac-sha256.", Key: server.NarrowKey}, NameServer: server.Address}); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		b.until(string(h), time.Minute, b.serves(h))
	}
}

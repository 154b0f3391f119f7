package acmetest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// Names is a running name server, Debian's Knot DNS, that is the authority of some zones and takes updates (RFC 2136) by a key. It forwards
// nothing, so that nobody who asks it asks the internet.
type Names struct {
	Address string // "127.0.0.1:PORT", by UDP and TCP
	KeyName string
	Key     string // base64, of HMAC-SHA-256
	// NarrowKeyName and NarrowKey set what is below "auth" in the zone, and nothing else.
	NarrowKeyName, NarrowKey string
	Log                      string // path

	program *process.Process
}

// knotd is where Debian has it.
const knotd = "/usr/sbin/knotd"

// StartNames starts a name server for a zone, in which every name has the address 127.0.0.1 that has nothing else. Stop it.
func StartNames(dir, zone string) (*Names, error) {
	if _, err := os.Stat(knotd); err != nil {
		return nil, fmt.Errorf("there is no name server to test with: `make test-deps` installs knot: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	key := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	n := &Names{Address: l.Addr().String(), KeyName: "bulwark.", Key: key("a key of tests, and no secret"), NarrowKeyName: "narrow.", NarrowKey: key("another key, of tests as well"),
		Log: filepath.Join(dir, "knot.log")}
	l.Close()
	conf := fmt.Sprintf(`server:
    listen: 127.0.0.1@%d
    rundir: %[2]q
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: %[2]q
log:
  - target: stderr
    any: info
key:
  - id: %[3]q
    algorithm: hmac-sha256
    secret: %[4]q
  - id: %[5]q
    algorithm: hmac-sha256
    secret: %[6]q
acl:
  - id: update
    action: update
    key: %[3]q
  - id: narrow
    action: update
    key: %[5]q
    update-owner: name
    update-owner-match: sub
    update-owner-name: auth
template:
  - id: default
    storage: %[2]q
    zonefile-sync: -1
zone:
  - domain: %[7]q
    acl: [update, narrow]
`, l.Addr().(*net.TCPAddr).Port, dir, n.KeyName, n.Key, n.NarrowKeyName, n.NarrowKey, zone)
	text := fmt.Sprintf("$ORIGIN %s.\n$TTL 0\n@ SOA ns hostmaster 1 3600 600 86400 0\n@ NS ns\n@ A 127.0.0.1\nns A 127.0.0.1\n* A 127.0.0.1\n", zone)
	if err := os.WriteFile(filepath.Join(dir, zone+".zone"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "knot.conf")
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	if n.program, err = process.Start(context.Background(), process.Cmd{Path: knotd, Args: []string{"-c", file}, Dir: dir, Stdout: log, Stderr: log}); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		m := new(dns.Msg).SetQuestion(dns.Fqdn(zone), dns.TypeSOA)
		var r *dns.Msg
		if r, _, err = new(dns.Client).Exchange(m, n.Address); err == nil && r.Rcode == dns.RcodeSuccess {
			return n, nil
		}
	}
	said, _ := os.ReadFile(n.Log)
	return nil, errors.Join(fmt.Errorf("acmetest: the name server does not answer: %w\n%s", err, said), n.Stop())
}

// Set makes the records of a name and type those values, none included.
func (n *Names) Set(zone, name string, kind uint16, values ...string) error {
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	m.RemoveRRset([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: kind, Class: dns.ClassANY}}})
	for _, v := range values {
		if kind == dns.TypeTXT {
			v = fmt.Sprintf("%q", v)
		}
		rr, err := dns.NewRR(fmt.Sprintf("%s 0 IN %s %s", dns.Fqdn(name), dns.TypeToString[kind], v))
		if err != nil {
			return err
		}
		m.Insert([]dns.RR{rr})
	}
	m.SetTsig(n.KeyName, dns.HmacSHA256, 300, time.Now().Unix())
	r, _, err := (&dns.Client{Net: "tcp", TsigSecret: map[string]string{n.KeyName: n.Key}}).Exchange(m, n.Address)
	if err == nil && r.Rcode != dns.RcodeSuccess {
		err = errors.New(dns.RcodeToString[r.Rcode])
	}
	if err != nil {
		return fmt.Errorf("acmetest: the name server takes no change: %w", err)
	}
	return nil
}

// KeyFile writes the key as tsig-keygen does.
func (n *Names) KeyFile(path string) error {
	return os.WriteFile(path, fmt.Appendf(nil, "key %q {\n\talgorithm hmac-sha256;\n\tsecret %q;\n};\n", n.KeyName, n.Key), 0o600)
}

// Text is what the TXT records of a name say.
func (n *Names) Text(name string) ([]string, error) {
	r, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeTXT), n.Address)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range r.Answer {
		if t, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(t.Txt, ""))
		}
	}
	return out, nil
}

// Stop ends the name server.
func (n *Names) Stop() error {
	_ = n.program.Signal(os.Kill)
	_ = n.program.Wait()
	return nil
}

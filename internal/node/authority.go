package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// authority issues the certificates of the installation's own domain. Its root is constrained by name (RFC 5280 §4.2.1.10)
// to that domain and to localhost, so that trusting it gives away nothing else. Certificates of real domains come by ACME
// from the certs process.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	domain bulwark.HostName
	issued time.Time                           // by the machine's clock, when those below were made
	leaf   bulwark.Certificate                 // read and replaced by publish alone
	api    atomic.Pointer[bulwark.Certificate] // read by verbs while publish replaces it
	// claimed are the certificates of host names that apps claimed, self-signed: until a public authority has signed one,
	// the host is served and nobody is made to trust anything.
	claimed map[bulwark.HostName]bulwark.Certificate
}

const (
	rootLife  = 10 * 365 * 24 * time.Hour
	leafLife  = 90 * 24 * time.Hour
	backdated = time.Hour // before they are made, certificates begin: clocks differ
)

// rootBegin lies before any day on which this can run: the root lives through every turn of the clock, and one that was made on a
// machine whose clock was ahead would be good for nothing for as long.
var rootBegin = time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)

func openAuthority(dir string, domain bulwark.HostName) (*authority, error) {
	a := &authority{domain: domain, claimed: map[bulwark.HostName]bulwark.Certificate{}}
	keyPath, certPath := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.pem")
	keyPEM, err := os.ReadFile(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err := a.create(); err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, err
		}
		// The certificate first: a key without one is made anew, a certificate without its key would be kept.
		if err := atomicfile.Write(certPath, a.pem(), 0o644); err != nil {
			return nil, err
		}
		if err := atomicfile.Write(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return nil, err
		}
		return a, a.issueAll()
	}
	if err != nil {
		return nil, err
	}
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if block == nil || kb == nil {
		return nil, fmt.Errorf("node: %s or its key is not PEM", certPath)
	}
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, err
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("node: %s is of another kind", keyPath)
	}
	return a, a.issueAll()
}

func (a *authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.key = key
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Bulwark"}, CommonName: "Bulwark " + string(a.domain)},
		NotBefore: rootBegin, NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{string(a.domain), "localhost"},
		PermittedIPRanges: []*net.IPNet{{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}, {IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	a.cert, err = x509.ParseCertificate(der)
	return err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("node: the system has no randomness: " + err.Error())
	}
	return n
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// stale tells whether the certificates shall be made anew: long before they end, and when the clock was set to where they are
// not good or will not be for long. The machine's clock says that, not the time that has passed: whoever connects asks the same.
func (a *authority) stale(now time.Time) bool {
	age := now.Round(0).Sub(a.issued)
	return age > leafLife/3 || age < -backdated/2
}

func (a *authority) issueAll() (err error) {
	a.issued = time.Now().Round(0)
	clear(a.claimed)
	if a.leaf, err = a.issue("", a.domain, []string{"*." + string(a.domain), string(a.domain)}, nil); err != nil {
		return err
	}
	api, err := a.issue("", "", []string{"localhost", string(a.domain)}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback})
	if err == nil {
		a.api.Store(&api)
	}
	return err
}

// issue makes a fresh key and a certificate for it: for the installation's own names, or self-signed for a claimed host.
func (a *authority) issue(name bulwark.HostName, wildcard bulwark.HostName, dns []string, ips []net.IP) (bulwark.Certificate, error) {
	var out bulwark.Certificate
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return out, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: dns[0]}, DNSNames: dns, IPAddresses: ips,
		NotBefore: now.Add(-backdated), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, signer := a.cert, a.key
	if name != "" {
		parent, signer = t, key // the root may not sign names outside its domain
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return out, err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return out, err
	}
	out.Wildcard = wildcard
	if name != "" {
		out.Names, out.Fallback = []bulwark.HostName{name}, true
	} else if wildcard != "" {
		out.Names = []bulwark.HostName{wildcard}
	}
	out.Chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
	return out, nil
}

// all returns the certificates that the edge serves, for the hosts that are claimed now: those that people brought, and for the others one that
// nobody vouches for, until an authority has issued another.
func (a *authority) all(hosts []bulwark.HostName, brought map[bulwark.HostName]ledger.Brought) ([]bulwark.Certificate, error) {
	out := append([]bulwark.Certificate{a.leaf}, gathered(hosts, brought)...)
	for _, h := range hosts {
		if _, ok := brought[h]; ok {
			continue
		}
		c, ok := a.claimed[h]
		if !ok {
			var err error
			if c, err = a.issue(h, "", []string{string(h)}, nil); err != nil {
				return nil, err
			}
			if below, is := h.Wildcard(); is {
				c.Names, c.Wildcard = nil, below
			}
			a.claimed[h] = c
		}
		out = append(out, c)
	}
	return out, nil
}

// publish keeps the edge's certificates fresh: at once, whenever the edge came without, and long before they end.
func (n *Node) publish(ctx context.Context) {
	client := unixClient(n.config.Sockets.EdgeCerts)
	var sent []byte
	var at time.Time
	for {
		if n.authority.stale(time.Now()) {
			if err := n.authority.issueAll(); err != nil {
				n.config.Log.Error("certificates cannot be renewed", "error", err)
			}
		}
		changed := n.instances.changed.wait()
		if err := n.shields.push(ctx, n.ledger); err != nil && ctx.Err() == nil {
			n.config.Log.Debug("the edge takes no shields", "error", err)
		}
		hosts, err := n.ledger.ClaimedHosts(ctx)
		var certs []bulwark.Certificate
		var wanted []bulwark.HostName
		if err == nil {
			var brought map[bulwark.HostName]ledger.Brought
			brought, wanted = n.brought.now(ctx, n.ledger, hosts, time.Now(), n.config.Log)
			certs, err = n.authority.all(hosts, brought)
		}
		if err == nil {
			err = n.orderCertificates(wanted)
		}
		// An edge that was replaced has them from its predecessor; one that lost them gets them within half a minute.
		var body []byte
		if err == nil {
			body, err = json.Marshal(certs)
		}
		if err == nil && (!bytes.Equal(body, sent) || time.Since(at) > 30*time.Second) {
			if err = tellEdge(ctx, client, "/certificates", body); err == nil {
				sent, at = body, time.Now()
			}
		}
		if err != nil && ctx.Err() == nil {
			n.config.Log.Debug("the edge takes no certificates", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(5 * time.Second):
		}
	}
}

func unixClient(path string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

func tellEdge(ctx context.Context, client *http.Client, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://edge"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the edge answered %s", res.Status)
	}
	return nil
}

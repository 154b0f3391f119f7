package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
)

// authority starts a real certificate authority that looks whether a name is served by the story's installation, and says where it is:
//
//	authority start
//	authority restart     it forgets everything
//	authority stop
func authority(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	if len(args) != 1 {
		ts.Fatalf("usage: authority start|restart|stop")
	}
	switch args[0] {
	case "start":
		dir := filepath.Join(s.on.dir, "authority")
		ts.Check(os.Mkdir(dir, 0o700))
		port := func(name string) uint16 {
			n, err := strconv.ParseUint(s.on.ports[name], 10, 16)
			ts.Check(err)
			return uint16(n)
		}
		ca, err := acmetest.Start(acmetest.Config{Dir: dir, HTTPPort: port("HTTP"), TLSPort: port("HTTPS"), NonceReject: 20, Names: names})
		ts.Check(err)
		s.ca = ca
		ts.Defer(func() { ca.Stop() })
		roots := filepath.Join(s.on.dir, "authority-roots.pem")
		ts.Check(os.WriteFile(roots, ca.Roots, 0o600))
		key := filepath.Join(s.work, "updates.key")
		ts.Check(names.KeyFile(key))
		ts.Check(os.WriteFile(filepath.Join(s.work, "updates.secret"), []byte(names.Key), 0o600))
		ts.Setenv("NAMES", names.Address)
		ts.Setenv("NAMES_KEY", key)
		ts.Setenv("CA_URL", ca.Directory)
		ts.Setenv("CA_ROOTS", roots)
	case "restart":
		ts.Check(s.ca.Restart())
	case "stop":
		ts.Check(s.ca.Stop())
	default:
		ts.Fatalf("usage: authority start|restart|stop")
	}
}

// issuedFor waits until the edge shows a certificate of the authority for a host, or looks that it shows none.
func issuedFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] issued HOST")
	}
	s := of(ts)
	look := func() error {
		root, err := s.ca.Root()
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AddCert(root)
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", "127.0.0.1:"+s.on.ports["HTTPS"], &tls.Config{RootCAs: roots, ServerName: args[0]})
		if err != nil {
			return err
		}
		leaf := c.ConnectionState().PeerCertificates[0]
		fmt.Fprintln(ts.Stdout(), leaf.SerialNumber)
		return c.Close()
	}
	if neg {
		if err := look(); err == nil {
			ts.Fatalf("the authority's certificate is shown")
		}
		return
	}
	if err := poll(time.Minute, look); err != nil {
		log, _ := os.ReadFile(s.ca.Log)
		ts.Fatalf("%v\n%s", err, log[max(0, len(log)-4000):])
	}
	// Its key lies on no disk in the clear.
	ts.Check(filepath.WalkDir(s.on.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".db" && filepath.Ext(path) != ".db-wal" {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte("PRIVATE KEY")) {
			return errors.New("a private key is in " + path)
		}
		return nil
	}))
}

// setNames has the name server say something of a name below example.org:
//
//	dns TXT _bulwark.www.example.org VALUE...     nothing, if no value is given
func setNames(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || dns.StringToType[args[0]] == 0 {
		ts.Fatalf("usage: dns TYPE NAME [VALUE...]")
	}
	ts.Check(names.Set("example.org", args[1], dns.StringToType[args[0]], args[2:]...))
}

// bring makes a certificate of a private authority for names, and the file of its key: CHAIN, KEY and, of the authority alone, ROOT.
func bring(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: bring CHAIN KEY ROOT NAME...")
	}
	make := func(c *x509.Certificate, by *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		if by == nil {
			by, signer = c, key
		}
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(60*24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer)
		ts.Check(err)
		made, err := x509.ParseCertificate(der)
		ts.Check(err)
		return made, key
	}
	root, signer := make(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "A customer"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, key := make(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: args[3:], ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, root, signer)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for path, b := range map[string]*pem.Block{args[0]: {Type: "CERTIFICATE", Bytes: leaf.Raw}, args[1]: {Type: "PRIVATE KEY", Bytes: secret}, args[2]: {Type: "CERTIFICATE", Bytes: root.Raw}} {
		ts.Check(os.WriteFile(ts.MkAbs(path), pem.EncodeToMemory(b), 0o600))
	}
}

// shown looks whether the edge shows a certificate for a host that a root of a file vouches for.
func shown(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] shown HOST ROOT")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[1])))
	look := func() error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", "127.0.0.1:"+of(ts).on.ports["HTTPS"], &tls.Config{RootCAs: roots, ServerName: args[0]})
		if err != nil {
			return err
		}
		return c.Close()
	}
	err := poll(20*time.Second, func() error {
		if err := look(); neg == (err == nil) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	if err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

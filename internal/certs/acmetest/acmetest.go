// Package acmetest runs a real certificate authority for tests: Pebble, with its own name server, on the loopback. It promises that nothing of
// it reaches another machine: every name leads to 127.0.0.1. It is used by tests alone and holds no secret worth having.
package acmetest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// Config says how an authority behaves.
type Config struct {
	Dir               string // for its files
	HTTPPort, TLSPort uint16 // where it looks whether a name is somebody's
	NonceReject       int    // per cent of nonces that it refuses
	Validity          time.Duration
	EAB               map[string]string // key id to MAC key, base64url; empty: none is asked for
	OCSP              string            // URL at which its certificates say that they are not revoked; empty: they do not
	Blocked           []string          // domains that it issues nothing for
	Names             *Names            // who tells it what the DNS says; nil: one for whom every name is 127.0.0.1
}

// CA is a running authority.
type CA struct {
	Directory string // URL
	Roots     []byte // PEM, whom to trust when it is asked
	Log       string // path

	config     Config
	management string
	ports      [4]uint16
	programs   []*process.Process
}

// Start starts an authority. Stop it.
func Start(c Config) (*CA, error) {
	if c.Validity == 0 {
		c.Validity = 90 * 24 * time.Hour
	}
	ca := &CA{config: c, Log: filepath.Join(c.Dir, "pebble.log")}
	var held [len(ca.ports)]net.Listener // all at once, so that they are different ones
	for i := range held {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held[i], ca.ports[i] = l, l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	for _, l := range held {
		l.Close()
	}
	if err := ca.certificate(); err != nil {
		return nil, err
	}
	ca.Directory = fmt.Sprintf("https://localhost:%d/dir", ca.ports[0])
	ca.management = fmt.Sprintf("https://localhost:%d", ca.ports[1])
	algorithm := "ecdsa"
	if c.OCSP != "" {
		algorithm = "rsa" // Pebble gives no other key away, and whoever says what is revoked needs it
	}
	profiles := map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": int(c.Validity.Seconds())}}
	b, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", ca.ports[0]), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", ca.ports[1]),
		"certificate": filepath.Join(c.Dir, "ca-cert.pem"), "privateKey": filepath.Join(c.Dir, "ca-key.pem"), "httpPort": c.HTTPPort, "tlsPort": c.TLSPort,
		"ocspResponderURL": c.OCSP, "externalAccountBindingRequired": len(c.EAB) > 0, "externalAccountMACKeys": c.EAB, "domainBlocklist": c.Blocked,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": algorithm, "profiles": profiles,
	}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "pebble.json"), b, 0o600); err != nil {
		return nil, err
	}
	if err := ca.run(); err != nil {
		return nil, errors.Join(err, ca.Stop())
	}
	return ca, nil
}

// run starts the programs and waits until they answer.
func (ca *CA) run() error {
	names := fmt.Sprintf("127.0.0.1:%d", ca.ports[2])
	if ca.config.Names != nil {
		names = ca.config.Names.Address
	} else if err := ca.program("pebble-challtestsrv", nil, "-dnsserver", names, "-management", fmt.Sprintf("127.0.0.1:%d", ca.ports[3]), "-http01", "", "-https01", "",
		"-tlsalpn01", "", "-doh", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""); err != nil {
		return err
	}
	env := []string{"PEBBLE_VA_SLEEPTIME=1", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=" + strconv.Itoa(ca.config.NonceReject), "PEBBLE_AUTHZREUSE=0"}
	if err := ca.program("pebble", env, "-config", filepath.Join(ca.config.Dir, "pebble.json"), "-dnsserver", names); err != nil {
		return err
	}
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, last = ca.get(ca.Directory); last == nil {
			return nil
		}
	}
	return fmt.Errorf("acmetest: the authority does not answer: %w", last)
}

func (ca *CA) program(name string, env []string, args ...string) error {
	path, err := find(name)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(ca.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p, err := process.Start(context.Background(), process.Cmd{Path: path, Args: args, Env: env, Dir: ca.config.Dir, Stdout: log, Stderr: log})
	if err != nil {
		return err
	}
	ca.programs = append(ca.programs, p)
	return nil
}

// Stop ends the authority. What it knew is gone.
func (ca *CA) Stop() error {
	for _, p := range ca.programs {
		_ = p.Signal(os.Kill) // it may have ended
		_ = p.Wait()
	}
	ca.programs = nil
	return nil
}

// Restart ends the authority and begins another at the same address, with other keys, that knows nobody.
func (ca *CA) Restart() error { return errors.Join(ca.Stop(), ca.run()) }

// Root is the certificate that the authority signs under now.
func (ca *CA) Root() (*x509.Certificate, error) {
	b, err := ca.get(ca.management + "/roots/0")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("acmetest: the root is not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Intermediate is the certificate by which the authority signs now, and its key.
func (ca *CA) Intermediate() (*x509.Certificate, crypto.Signer, error) {
	b, err := ca.get(ca.management + "/intermediates/0")
	if err != nil {
		return nil, nil, err
	}
	k, err := ca.get(ca.management + "/intermediate-keys/0")
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(b, k)
	if err != nil {
		return nil, nil, err
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer), nil
}

func (ca *CA) get(url string) ([]byte, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots)
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return io.ReadAll(res.Body)
}

// certificate makes the one that the authority's own address has.
func (ca *CA) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acmetest"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	ca.Roots = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return errors.Join(os.WriteFile(filepath.Join(ca.config.Dir, "ca-cert.pem"), ca.Roots, 0o600),
		os.WriteFile(filepath.Join(ca.config.Dir, "ca-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// find finds a program that `make test-tools` builds.
func find(name string) (string, error) {
	pattern := "/var/cache/bulwark/tools/*/bin/" + name
	if dir := os.Getenv("BULWARK_TEST_TOOLS"); dir != "" {
		pattern = filepath.Join(dir, name)
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("there is no %s to test with (%s): `make test-tools` builds it, `make test` says where by BULWARK_TEST_TOOLS", name, pattern)
	}
	slices.SortFunc(found, func(a, b string) int { return bytes.Compare([]byte(age(a)), []byte(age(b))) })
	return found[len(found)-1], nil
}

func age(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return st.ModTime().UTC().Format(time.RFC3339Nano)
}

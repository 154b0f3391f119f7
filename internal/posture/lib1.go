package posture

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/buildinfo"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func lib1() Control {
	return Control{ID: "LIB-1", Version: 1, Every: hourly,
		Promise: "Well-tested security libraries, none of our own, and their protections never bypassed.",
		Tries: "Stands in for the API with certificates that are right in all but one thing, and has the platform's own program sign in there. Looks into the " +
			"programs for libraries that were replaced, or that have no checksum.",
		Probe: probeLIB1}
}

func probeLIB1(ctx context.Context, w *World, r *Record) error {
	if err := w.Person.SignIn(ctx); err != nil {
		return err
	}
	_, err := w.Person.Do(ctx, "whoami", "--json")
	r.Proven("the program believes the real server", err == nil, fmt.Sprint(err))
	for what, make := range map[string]func(*x509.Certificate){
		"an authority of its own":      func(*x509.Certificate) {},
		"a name that is another":       func(c *x509.Certificate) { c.DNSNames = []string{"other.example.org"} },
		"a certificate that is over":   func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) },
		"no server's certificate":      func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"a version of TLS that is old": nil,
	} {
		err := w.standIn(ctx, r, what, make)
		if err != nil {
			return err
		}
	}
	return w.libraries(r)
}

// standIn listens in the API's place, and has the prober's program go there: it must say no word about itself.
func (w *World) standIn(ctx context.Context, r *Record, what string, change func(*x509.Certificate)) error {
	cert, err := selfMade(change)
	if err != nil {
		return err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if change == nil {
		conf.MinVersion, conf.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return err
	}
	defer l.Close()
	came, said := make(chan bool, 16), make(chan bool, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				came <- true
				_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // it may be gone
				var b [1]byte
				if n, _ := c.Read(b[:]); n > 0 {
					said <- true
				}
			}()
		}
	}()
	// The same person, who knows the server at this address.
	home := filepath.Join(w.Scratch, "home-"+randomHex(4))
	there := fmt.Sprintf("https://localhost:%d", l.Addr().(*net.TCPAddr).Port)
	if err := w.Person.copyTo(home, there); err != nil {
		return err
	}
	p := *w.Person
	p.home, p.api = home, there
	_, err = p.Do(ctx, "whoami", "--json")
	select {
	case <-came:
	default:
		return fmt.Errorf("nobody came to the server that stands in: %w", err)
	}
	talked := false
	select {
	case <-said:
		talked = true
	default:
	}
	r.Refused("have the program speak to a server with "+what, err != nil && !talked, fmt.Sprint(err))
	return nil
}

// copyTo makes a home for the same person, who knows the server at another address.
func (p *Person) copyTo(home, there string) error {
	dir := filepath.Join(home, ".config", "bulwark")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	from := filepath.Join(p.home, ".config", "bulwark")
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		b = []byte(strings.ReplaceAll(string(b), p.api, there))
		if err := os.WriteFile(filepath.Join(dir, f.Name()), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// selfMade is a certificate for this machine that is good in all but what change does to it, and that nobody vouches for.
func selfMade(change func(*x509.Certificate)) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// libraries looks into the platform's programs: what was linked in is what its authors published, as go.sum had it.
func (w *World) libraries(r *Record) error {
	programs, err := filepath.Glob(filepath.Join(filepath.Dir(w.Kit), "bulwark-*"))
	if err != nil {
		return err
	}
	seen := 0
	for _, path := range append(programs, w.Person.bulwark) {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var odd []string
		for _, d := range info.Deps {
			seen++
			if d.Replace != nil || d.Sum == "" {
				odd = append(odd, d.Path)
			}
		}
		r.Refused("link a library into "+filepath.Base(path)+" that nobody has checked", len(odd) == 0, strings.Join(odd, " "))
	}
	if seen == 0 {
		return errors.New("the programs tell of no libraries")
	}
	r.Proven("the programs tell of their libraries", seen > 50, fmt.Sprint(seen))
	return nil
}

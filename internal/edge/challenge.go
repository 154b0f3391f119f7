package edge

import (
	"crypto/tls"
	"net/http"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// challengePath is the edge's own on every host: whoever answers there can have a certificate for the host, so no app does (RFC 8555 §8.3).
const challengePath = "/.well-known/acme-challenge/"

// protocolACME is what an authority asks for in a handshake (RFC 8737 §4), and nobody else.
const protocolACME = "acme-tls/1"

// challenges are what is answered to authorities now. It is immutable.
type challenges struct {
	says map[bulwark.HostName]map[string]string // by host and token
	alpn map[string]*tls.Config                 // by host
}

// putChallenges replaces all challenges.
func (e *edge) putChallenges(r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	var in bulwark.Challenges
	if err := fdpass.Decode(b, &in); err != nil {
		return err
	}
	next := &challenges{says: map[bulwark.HostName]map[string]string{}, alpn: map[string]*tls.Config{}}
	for _, c := range in.HTTP {
		if c.Token == "" || strings.ContainsAny(c.Token, "/?#") {
			return bulwark.Invalid("The token of a challenge is not well formed.", "")
		}
		if next.says[c.Host] == nil {
			next.says[c.Host] = map[string]string{}
		}
		next.says[c.Host][c.Token] = c.Says
	}
	for _, c := range in.ALPN {
		made, err := newCert(c)
		if err != nil {
			return err
		}
		config := &tls.Config{Certificates: []tls.Certificate{made.Certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{protocolACME},
			SessionTicketsDisabled: true}
		for n := range made.names {
			next.alpn[n] = config
		}
	}
	e.certs.challenges.Store(next)
	return nil
}

// forAuthority is tls.Config.GetConfigForClient: an authority that looks whether a name is ours gets a certificate which is good for
// nothing else. Who offers the protocol beside others is no authority.
func (s *certStore) forAuthority(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != protocolACME {
		return nil, nil
	}
	if c := s.challenges.Load().alpn[strings.ToLower(hello.ServerName)]; c != nil {
		return c, nil
	}
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }, MinVersion: tls.VersionTLS12}, nil
}

// reserved tells whether a path is the edge's own, whatever app has the host.
func reserved(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	return strings.HasPrefix(path, challengePath)
}

// challenge answers at the reserved path, or says that nothing is there.
func (e *edge) challenge(w http.ResponseWriter, r *http.Request, host bulwark.HostName, target string) {
	says, ok := e.certs.challenges.Load().says[host][strings.TrimPrefix(target, challengePath)]
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		pageNoRoute.write(w, &e.plain, "", "")
		return
	}
	h := w.Header()
	e.plain.addTo(h)
	h["Content-Type"] = []string{"application/octet-stream"} // RFC 8555 §8.3 asks for it
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write([]byte(says)) // an authority that is gone needs no answer
	}
}

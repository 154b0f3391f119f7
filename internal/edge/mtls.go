package edge

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"

	"github.com/bulwark-paas/bulwark"
)

// policies are the two of [bulwark.TLSPolicy], as handshakes have them, and what they are for those who have to show an upstream's certificate.
type policies struct {
	intermediate, modern             *tls.Config
	lockedIntermediate, lockedModern *tls.Config // nil: nobody has to
}

func newPolicies(intermediate *tls.Config, upstreams bulwark.ClientCA) policies {
	p := policies{intermediate: intermediate, modern: intermediate.Clone()}
	p.modern.MinVersion = tls.VersionTLS13
	if upstreams == "" {
		return p
	}
	lock := func(c *tls.Config) *tls.Config {
		c = c.Clone()
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		certs, _ := upstreams.Certificates() // none: nobody is let in
		for _, cert := range certs {
			c.ClientCAs.AddCert(cert)
		}
		return c
	}
	p.lockedIntermediate, p.lockedModern = lock(p.intermediate), lock(p.modern)
	return p
}

// locked is the policy for who has to show an upstream's certificate; nil: they need none.
func (p policies) locked(t bulwark.TLSPolicy) *tls.Config {
	if t == bulwark.TLSModern {
		return p.lockedModern
	}
	return p.lockedIntermediate
}

func (p policies) of(t bulwark.TLSPolicy) *tls.Config {
	if t == bulwark.TLSModern {
		return p.modern
	}
	return p.intermediate
}

// clientAuth has an app's clients show certificates (mTLS). It is immutable.
type clientAuth struct {
	config *tls.Config // of handshakes for the app
	roots  map[string]bool
}

// newClientAuth makes it of a shield's authorities. Those that cannot be read let nobody in.
func newClientAuth(a bulwark.ClientCA, config *tls.Config) *clientAuth {
	if a == "" {
		return nil
	}
	c := &clientAuth{config: config.Clone(), roots: map[string]bool{}}
	pool := x509.NewCertPool()
	certs, _ := a.Certificates() // none: nobody is let in
	for _, cert := range certs {
		pool.AddCert(cert)
		c.roots[string(cert.Raw)] = true
	}
	// Who shows none is answered with a page that says so, which people understand better than what their browser makes of a broken handshake.
	c.config.ClientAuth = tls.VerifyClientCertIfGiven
	c.config.ClientCAs = pool
	return c
}

// verified is the certificate that a client showed to this app's authorities, nil if none. A browser may use a connection that it made for one
// app for another one's requests, so the handshake alone says nothing.
func (c *clientAuth) verified(s *tls.ConnectionState) *x509.Certificate {
	if s == nil {
		return nil
	}
	for _, chain := range s.VerifiedChains {
		if c.roots[string(chain[len(chain)-1].Raw)] {
			return chain[0]
		}
	}
	return nil
}

// certified refuses who has no certificate that the app asks for, and notes the one that there is.
func (x *exchange) certified(c *chosen) bool {
	auth := c.clients
	if auth == nil {
		return true
	}
	if x.shown = auth.verified(x.r.TLS); x.shown != nil {
		return true
	}
	p := pageCertificate
	if x.conned == nil || x.conned.asked.Load() != auth {
		p = pageMisdirected // nobody asked for one when the connection was made; who makes another is asked
	}
	x.decline(bulwark.RefusedCertificate, p)
	return false
}

// clientCert is how the app learns which certificate a client has shown (RFC 9440). What a client says there itself is dropped.
func (x *exchange) clientCert() string {
	if x.shown == nil {
		return ""
	}
	return ":" + base64.StdEncoding.EncodeToString(x.shown.Raw) + ":"
}

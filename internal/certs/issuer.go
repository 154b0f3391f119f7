package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// issuer is a certificate authority with our account there. It implements [certmagic.Issuer] with acmez, since certmagic's own opens
// listeners for challenges, and here the edge answers them.
type issuer struct {
	at     certsapi.Authority
	email  string
	key    string
	client *acmez.Client // proves names by what leads here
	set    *acmez.Client // proves names by records; nil if none can be set
	kept   certmagic.Storage
	failed func(names []string, err error) // is told why a certificate was not issued

	keyAge time.Duration // after which the account gets another key
	// unchanged is told that the account goes on with an old key.
	unchanged func(error)

	mu      sync.Mutex    // held while the account is made; guards what follows
	account *acme.Account // nil until it was needed
	keyMade time.Time
	rolled  time.Time // when it was last tried to give it another key
}

// accountKeyAge is how old the key of an account becomes.
const accountKeyAge = 90 * 24 * time.Hour

// agent is how we name ourselves to authorities (RFC 8555 §6.1).
const agent = "Bulwark (https://bulwark.dev)"

func newIssuer(at certsapi.Authority, email string, kept certmagic.Storage, solvers map[string]acmez.Solver, failed func([]string, error)) (*issuer, error) {
	u, err := url.Parse(at.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, bulwark.Invalid(fmt.Sprintf("%q is no address of a certificate authority.", at.Directory), "Give its directory as an https URL.")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(at.Roots) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(at.Roots) {
			return nil, bulwark.Invalid("The roots for "+at.Directory+" are no certificates.", "Give them as PEM.")
		}
	}
	// Two authorities on one host are two; so are two accounts with one.
	sum := sha256.Sum256([]byte(at.Directory))
	i := &issuer{at: at, email: email, kept: kept, failed: failed, keyAge: accountKeyAge, unchanged: func(error) {}, key: u.Hostname() + "-" + hex.EncodeToString(sum[:6])}
	i.client = &acmez.Client{Client: &acme.Client{Directory: at.Directory, UserAgent: agent, PollTimeout: 3 * time.Minute,
		HTTPClient: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: t, TLSHandshakeTimeout: 20 * time.Second,
			ResponseHeaderTimeout: 40 * time.Second, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}}},
		ChallengeSolvers: map[string]acmez.Solver{}}
	for t, s := range solvers {
		if t == acme.ChallengeTypeDNS01 {
			i.set = &acmez.Client{Client: i.client.Client, ChallengeSolvers: map[string]acmez.Solver{t: s}}
		} else {
			i.client.ChallengeSolvers[t] = s
		}
	}
	return i, nil
}

// IssuerKey implements [certmagic.Issuer].
func (i *issuer) IssuerKey() string { return i.key }

// Issue implements [certmagic.Issuer].
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	c, err := i.issue(ctx, csr)
	if err != nil && ctx.Err() == nil {
		i.failed(csr.DNSNames, err)
	}
	return c, err
}

func (i *issuer) issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	replaces := i.current(ctx, csr)
	known := true
	for {
		account, err := i.ours(ctx)
		if err != nil {
			return nil, err
		}
		params, err := acmez.OrderParametersFromCSR(*account, csr)
		if err != nil {
			return nil, err
		}
		params.Replaces = replaces
		chains, err := i.obtain(ctx, params, csr.DNSNames)
		p, _ := errors.AsType[acme.Problem](err)
		switch {
		case err == nil && len(chains) > 0:
			return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
		case err == nil:
			return nil, errors.New("certs: the authority sent no certificate")
		case p.Type == acme.ProblemTypeAccountDoesNotExist && known:
			known = false
			i.forget() // the authority begins anew; our key is as good as before
		case replaces != nil && (p.Type == acme.ProblemTypeAlreadyReplaced || p.Type == acme.ProblemTypeMalformed):
			replaces = nil // it does not know the one before, or gave another for it; that is no reason to have none
		default:
			return nil, err
		}
	}
}

// obtain has a name proven by what leads here, and if that fails by a record; a pattern by a record alone. They are two clients: acmez gives an order up as soon as a
// challenge cannot be presented, and records can be set of some names only.
func (i *issuer) obtain(ctx context.Context, params acmez.OrderParameters, names []string) ([]acme.Certificate, error) {
	pattern := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "*.") })
	if i.set != nil && (pattern || len(i.client.ChallengeSolvers) == 0) {
		return i.set.ObtainCertificate(ctx, params)
	}
	chains, err := i.client.ObtainCertificate(ctx, params)
	p, told := errors.AsType[acme.Problem](err)
	if err == nil || i.set == nil || ctx.Err() != nil || told && !validation(p) {
		return chains, err
	}
	if chains, rerr := i.set.ObtainCertificate(ctx, params); rerr == nil {
		return chains, nil
	}
	return nil, err // what is wrong with the way here says more
}

// validation tells that an authority could not convince itself, as against not wanting to be asked.
func validation(p acme.Problem) bool {
	switch strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace) {
	case "rateLimited", "accountDoesNotExist", "alreadyReplaced", "malformed", "badNonce", "rejectedIdentifier", "unsupportedIdentifier", "externalAccountRequired", "userActionRequired", "serverInternal":
		return false
	}
	return true
}

// current is the certificate that a new one will replace (RFC 9773 §5), nil if there is none of this authority's.
func (i *issuer) current(ctx context.Context, csr *x509.CertificateRequest) *x509.Certificate {
	if len(csr.DNSNames) != 1 {
		return nil
	}
	b, err := i.kept.Load(ctx, certmagic.StorageKeys.SiteCert(i.key, csr.DNSNames[0]))
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(c.AuthorityKeyId) == 0 {
		return nil
	}
	return c
}

// GetRenewalInfo implements [certmagic.RenewalInfoGetter] (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acme.RenewalInfo, error) {
	return i.client.GetRenewalInfo(ctx, cert.Leaf)
}

// sentence is why an authority refused, in words for people.
func sentence(err error) string {
	p, ok := errors.AsType[acme.Problem](err)
	if !ok {
		return err.Error()
	}
	s := strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace) + ": " + p.Detail
	for _, sub := range p.Subproblems {
		s += "; " + sub.Detail
	}
	return s
}

// limited tells that an authority wants to be left alone for longer.
func limited(err error) bool {
	p, ok := errors.AsType[acme.Problem](err)
	return ok && p.Type == acme.ProblemTypeRateLimited
}

package edge

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// cert is a certificate as TLS uses it, with the names it is served for.
type cert struct {
	tls.Certificate
	names    map[string]struct{}
	wildcard string // serves every name one label below it; empty: none
	fallback bool
	bare     tls.Certificate // without the staple
	until    time.Time       // for how long that is shown
}

// covers says whether the certificate is good for host.
func (c *cert) covers(host string) bool {
	if _, ok := c.names[host]; ok {
		return true
	}
	_, above, ok := strings.Cut(host, ".")
	return ok && c.wildcard != "" && above == c.wildcard
}

// certSet is one version of the certificates of one source. It is immutable.
type certSet struct {
	exact     map[string]*cert
	wildcards map[string]*cert
	made      map[[sha256.Size]byte]*cert // by chain and key, so that what stays is not made anew
}

// find returns the certificate for a name: by its exact name, then by a wildcard one level up.
func (s *certSet) find(name string) *cert {
	if c := s.exact[name]; c != nil {
		return c
	}
	if _, above, ok := strings.Cut(name, "."); ok {
		return s.wildcards[above]
	}
	return nil
}

// source is who handed certificates over.
type source int

// The sources.
const (
	issued source = iota // the certs process
	own                  // the node
	sources
)

// kept are the names under which the supervisor holds them.
var kept = [sources]string{issued: keptIssued, own: keptCerts}

// certStore holds the current certificates.
type certStore struct {
	current    [sources]atomic.Pointer[certSet]
	challenges atomic.Pointer[challenges]

	mu     sync.Mutex      // one replacement at a time
	serial [sources]uint64 // of what the supervisor holds
}

func newCertStore() *certStore {
	s := &certStore{}
	for i := range s.current {
		s.current[i].Store(&certSet{})
	}
	s.challenges.Store(&challenges{})
	return s
}

// find returns the certificate for a name: what an authority issued, unless the name is one of the installation's own. So who owns the certs
// process has no say about those.
func (s *certStore) find(name string) *cert {
	ours := s.current[own].Load().find(name)
	if ours != nil && !ours.fallback {
		return ours
	}
	if c := s.current[issued].Load().find(name); c != nil {
		return c
	}
	return ours
}

// storedCerts is what is kept over a restart.
type storedCerts struct {
	Serial       uint64                `json:"serial"`
	Certificates []bulwark.Certificate `json:"certificates"`
}

func decodeStoredCerts(b []byte) (storedCerts, error) {
	var s storedCerts
	err := fdpass.Decode(b, &s)
	return s, err
}

func decodeCerts(b []byte) ([]bulwark.Certificate, error) {
	var list []bulwark.Certificate
	if err := fdpass.Decode(b, &list); err != nil {
		return nil, err
	}
	return list, nil
}

// replace puts list in the place of all certificates of a source, or changes nothing.
func (s *certStore) replace(from source, list []bulwark.Certificate) error {
	set, err := newCertSet(list, s.current[from].Load())
	if err == nil {
		s.current[from].Store(set)
	}
	return err
}

// newCertSet makes a set; what the one before has already is taken from there.
func newCertSet(list []bulwark.Certificate, before *certSet) (*certSet, error) {
	set := &certSet{exact: make(map[string]*cert, len(list)), wildcards: map[string]*cert{}, made: make(map[[sha256.Size]byte]*cert, len(list))}
	for _, c := range list {
		sum := digestOf(c)
		made := before.made[sum]
		if made == nil {
			var err error
			if made, err = newCert(c); err != nil {
				return nil, err
			}
		}
		set.made[sum] = made
		for n := range made.names {
			set.exact[n] = made
		}
		if made.wildcard != "" {
			set.wildcards[made.wildcard] = made
		}
	}
	return set, nil
}

func digestOf(c bulwark.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, part := range [][]byte{c.Chain, c.Key, []byte(fmt.Sprint(c.Names, c.Fallback)), []byte(c.Wildcard), c.OCSP} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

func newCert(c bulwark.Certificate) (*cert, error) {
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	name := "without a name"
	if len(c.Names) > 0 {
		name = "of " + string(c.Names[0])
	}
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The certificate %s cannot be used.", name), "Send chain and key as PEM.", err)
	}
	bare := pair
	pair.OCSPStaple = c.OCSP
	made := &cert{Certificate: pair, bare: bare, until: c.OCSPUntil, names: make(map[string]struct{}, len(c.Names)), wildcard: string(c.Wildcard), fallback: c.Fallback}
	for _, n := range c.Names {
		if err := pair.Leaf.VerifyHostname(string(n)); err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The certificate is not made for the name %s.", n), "", err)
		}
		made.names[string(n)] = struct{}{}
	}
	if c.Wildcard != "" {
		if err := pair.Leaf.VerifyHostname("a." + string(c.Wildcard)); err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The certificate is not made for *.%s.", c.Wildcard), "", err)
		}
	}
	return made, nil
}

// forHello is tls.Config.GetCertificate. Without a certificate for the name it returns nothing at all, which crypto/tls
// answers with the alert unrecognized_name; an error of ours would become internal_error.
func (s *certStore) forHello(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := s.find(strings.ToLower(hello.ServerName))
	if c == nil {
		return nil, nil
	}
	if len(c.OCSPStaple) > 0 && time.Now().After(c.until) {
		return &c.bare, nil // browsers take an old one for a sign that something is hidden
	}
	return &c.Certificate, nil
}

// directs says whether a connection that was made for the name sni may carry requests for host.
func (s *certStore) directs(sni, host string) bool {
	if sni == host {
		return true
	}
	c := s.find(strings.ToLower(sni))
	return c != nil && c.covers(host)
}

// tlsConfig is the policy "intermediate" of 2026: TLS 1.2 and 1.3, forward secrecy and authenticated encryption only.
//
// There are no session tickets: crypto/tls promises clients seven days and cannot be told less, and a full handshake
// with a P-256 key costs a fraction of a millisecond. So nothing that is kept anywhere opens a recorded connection.
func (s *certStore) tlsConfig() *tls.Config {
	return &tls.Config{
		GetCertificate: s.forHello,
		MinVersion:     tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2", "http/1.1"},
	}
}

// certsServer is how certificates of a source are handed over: by the node on one socket, by the certs process on another.
func (e *edge) certsServer(from source) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /certificates", func(w http.ResponseWriter, r *http.Request) { answer(w, e.putCertificates(from, r)) })
	if from == own {
		mux.HandleFunc("PUT /shields", func(w http.ResponseWriter, r *http.Request) { answer(w, e.putShields(r)) })
		mux.HandleFunc("PUT /patches", func(w http.ResponseWriter, r *http.Request) { answer(w, e.putPatches(r)) })
	}
	if from == issued {
		mux.HandleFunc("PUT /challenges", func(w http.ResponseWriter, r *http.Request) { answer(w, e.putChallenges(r)) })
	}
	return privateServer(e.unlessLeft(mux), e.cfg.Logger)
}

func (e *edge) putCertificates(from source, r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	list, err := decodeCerts(b)
	if err != nil {
		return err
	}
	e.certs.mu.Lock()
	defer e.certs.mu.Unlock()
	set, err := newCertSet(list, e.certs.current[from].Load())
	if err != nil {
		return err
	}
	stored, err := json.Marshal(storedCerts{Serial: e.certs.serial[from] + 1, Certificates: list})
	if err != nil {
		return errors.Join(errors.New("encode certificates"), err)
	}
	if err := e.store.keep(kept[from], stored); err != nil {
		return err
	}
	e.certs.serial[from]++
	e.certs.current[from].Store(set)
	return nil
}

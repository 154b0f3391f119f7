package certs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/bulwark-paas/bulwark"
)

// Edge is what this process asks of the edge.
type Edge interface {
	PutCertificates(ctx context.Context, list []bulwark.Certificate) error
	PutChallenges(ctx context.Context, all bulwark.Challenges) error
}

// answers are the challenges that the edge answers now. It holds all of them, so that an edge which was replaced in the middle of one is
// told again.
type answers struct {
	edge Edge
	log  *slog.Logger

	telling sync.Mutex // held while the edge is told, so that it gets them in order
	mu      sync.Mutex // guards what follows
	http    map[string]bulwark.HTTPChallenge
	alpn    map[string]bulwark.Certificate
}

func newAnswers(edge Edge, log *slog.Logger) *answers {
	return &answers{edge: edge, log: log, http: map[string]bulwark.HTTPChallenge{}, alpn: map[string]bulwark.Certificate{}}
}

// tell hands the edge all of them.
func (a *answers) tell(ctx context.Context) error {
	a.telling.Lock()
	defer a.telling.Unlock()
	a.mu.Lock()
	var all bulwark.Challenges
	for _, c := range a.http {
		all.HTTP = append(all.HTTP, c)
	}
	for _, c := range a.alpn {
		all.ALPN = append(all.ALPN, c)
	}
	a.mu.Unlock()
	return a.edge.PutChallenges(ctx, all)
}

// Present implements [acmez.Solver].
func (a *answers) Present(ctx context.Context, c acme.Challenge) error {
	host, err := bulwark.ParseHostName(c.Identifier.Value)
	if err != nil {
		return err
	}
	switch c.Type {
	case acme.ChallengeTypeHTTP01:
		a.mu.Lock()
		a.http[c.URL] = bulwark.HTTPChallenge{Host: host, Token: c.Token, Says: c.KeyAuthorization}
		a.mu.Unlock()
	case acme.ChallengeTypeTLSALPN01:
		pair, err := acmez.TLSALPN01ChallengeCert(c)
		if err != nil {
			return err
		}
		cert, err := asPEM(pair.Certificate, pair.PrivateKey)
		if err != nil {
			return err
		}
		cert.Names = []bulwark.HostName{host}
		a.mu.Lock()
		a.alpn[c.URL] = cert
		a.mu.Unlock()
	default:
		return errors.New("certs: a challenge of the type " + c.Type)
	}
	return a.tell(ctx)
}

// CleanUp implements [acmez.Solver].
func (a *answers) CleanUp(ctx context.Context, c acme.Challenge) error {
	a.mu.Lock()
	delete(a.http, c.URL)
	delete(a.alpn, c.URL)
	a.mu.Unlock()
	return a.tell(context.WithoutCancel(ctx))
}

// keep tells the edge again and again while there is something to answer.
func (a *answers) keep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		pending := len(a.http) + len(a.alpn)
		a.mu.Unlock()
		if pending == 0 {
			continue
		}
		if err := a.tell(ctx); err != nil && ctx.Err() == nil {
			a.log.Debug("the edge takes no challenges", "error", err)
		}
	}
}

// asPEM writes a certificate as the edge takes it.
func asPEM(chain [][]byte, key any) (bulwark.Certificate, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return bulwark.Certificate{}, err
	}
	out := bulwark.Certificate{Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
	for _, c := range chain {
		out.Chain = append(out.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	return out, nil
}

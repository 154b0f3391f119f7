package node

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/node/certkeep"
)

// CertsConfig is what the node is told about certificates of public authorities.
type CertsConfig struct {
	Listener    net.Listener // the certs process's way in
	UID         uint32       // who may use it, beside root
	Authorities []certsapi.Authority
	Email       string
	Updates     *certsapi.Updates // nil: no records of the DNS can be set
}

// keepPurpose derives the key by which what the certs process remembers is sealed. It is for that and nothing else.
const keepPurpose = "bulwark certs keep v1"

// openCerts opens what is kept for the certs process.
func (n *Node) openCerts(ctx context.Context) error {
	key, err := hkdf.Key(sha256.New, n.keys.node.Seed(), nil, keepPurpose, chacha20poly1305.KeySize)
	if err != nil {
		return err
	}
	n.certs, err = certkeep.Open(ctx, filepath.Join(n.config.Dir, "certs.db"), key)
	return err
}

// serveCerts answers the certs process until ctx ends.
func (n *Node) serveCerts(ctx context.Context) {
	srv := &http.Server{Handler: n.certs.Handler(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(peers{n.config.Certs.Listener, n.config.Certs.UID}); !errors.Is(err, http.ErrServerClosed) {
		n.config.Log.Error("the certs process is not answered any more", "error", err)
	}
}

// orderCertificates says for which hosts certificates are wanted: for those that apps claimed, and no other.
func (n *Node) orderCertificates(hosts []bulwark.HostName) error {
	c := n.config.Certs
	return n.certs.Order(certsapi.Orders{Hosts: hosts, Authorities: c.Authorities, Email: c.Email, Updates: c.Updates, NameServer: n.config.NameServer})
}

// nameServers are those that the operator named for the certs process.
func (c *Config) nameServers() []netip.AddrPort {
	all := []string{c.NameServer}
	if c.Certs.Updates != nil {
		all = append(all, c.Certs.Updates.Server)
	}
	var out []netip.AddrPort
	for _, s := range all {
		if at, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, at)
		}
	}
	return out
}

// authorityPlaces finds where the operator's certificate authorities are, as far as that is closed to who connects from this machine.
type authorityPlaces struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	found []netip.AddrPort
}

// How often the names of authorities are looked up, and how long that may take.
const (
	placesFor  = time.Minute
	placesTime = 2 * time.Second
)

// closed returns them. What cannot be looked up is as it was.
func (p *authorityPlaces) closed(ctx context.Context, all []certsapi.Authority, connected []netip.Prefix) []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < placesFor && !p.at.IsZero() {
		return p.found
	}
	p.at = time.Now()
	ctx, cancel := context.WithTimeout(ctx, placesTime)
	defer cancel()
	var out []netip.AddrPort
	for _, a := range all {
		u, err := url.Parse(a.Directory)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil {
			port = 443
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
		if err != nil {
			return p.found
		}
		for _, ip := range addrs {
			if ip = ip.Unmap(); netpolicy.Classify(ip, connected) != netpolicy.Open {
				out = append(out, netip.AddrPortFrom(ip, uint16(port)))
			}
		}
	}
	p.found = out
	return out
}

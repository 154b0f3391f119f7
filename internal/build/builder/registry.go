package builder

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Images from registries. The builder asks the registry for the digest behind a name before BuildKit does, for three
// reasons: an error can say which line of the Dockerfile it is about and what the proxy or the registry answered; the
// build is pinned to that digest, so a tag that moves meanwhile changes nothing; and the digest goes into the result, from
// which the node writes it into the provenance as this builder's claim.
//
// The registry is a stranger, and BuildKit checks all that it sends against the digest.

// resolveTime is how long a registry may take to tell a digest, with its token server.
const resolveTime = 45 * time.Second

// resolveImage asks for the digest of an image that no base stands for.
func (p *planning) resolveImage(ctx context.Context, file string, img *dockerImage) error {
	host := reference.Domain(img.named)
	client, err := p.registryClient(host)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithClient(client), docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client))))})
	asked, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	_, desc, err := resolver.Resolve(asked, img.named.String())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		_, err = bulwark.ParseDigest(desc.Digest.String())
	}
	if err != nil {
		why, hint := whyNoImage(err, host)
		be := at(file, img.line, fmt.Sprintf("the image %s cannot be had: %s", short(img.ref), why), hint).(*bulwark.Error)
		return bulwark.Fail(bulwark.KindFailed, be.Message, be.Hint, err)
	}
	img.digest = desc.Digest
	return nil
}

// registryClient makes a client that goes by the proxy and believes the host's authorities, and the registry's own.
func (p *planning) registryClient(host string) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if p.job.CA != "" {
		b, err := os.ReadFile(p.job.CA)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(b)
	}
	for _, r := range p.job.Images {
		if r.Host == host {
			roots.AppendCertsFromPEM([]byte(r.CA))
		}
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second}
	if p.job.Proxy != "" {
		u, err := url.Parse(p.job.Proxy)
		if err != nil {
			return nil, err
		}
		t.Proxy = http.ProxyURL(u)
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, asked *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return &proxyRefusal{place: asked.Host, reason: answer.Header.Get("Bulwark-Egress")}
			}
			return nil
		}
	}
	return &http.Client{Transport: t}, nil
}

// proxyRefusal is the proxy's answer to a CONNECT that it does not grant.
type proxyRefusal struct{ place, reason string }

// Error tells the reason as the proxy names it.
func (r *proxyRefusal) Error() string { return "the proxy refuses " + r.place + ": " + r.reason }

// whyNoImage says why an image cannot be had from a registry, and what to do.
func whyNoImage(err error, host string) (why, hint string) {
	if r, ok := errors.AsType[*proxyRefusal](err); ok {
		return notReached(strings.TrimSuffix(r.place, ":443"), r.reason, host)
	}
	if unsafe, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the certificate of its registry does not hold: %v", unsafe.Err),
			"If the registry has an authority of its own: bulwark registries allow " + host + " --ca FILE"
	}
	const noPassword = "Images that take a password cannot be had yet; let the registry show it to everybody on your network, or copy it to one that does."
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return "its registry does not have it, or asks for a password", noPassword
	}
	if s, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		if s.StatusCode == http.StatusUnauthorized || s.StatusCode == http.StatusForbidden {
			return "its registry answers " + short(s.Status), noPassword
		}
		return "its registry answers " + short(s.Status), ""
	}
	switch text := err.Error(); {
	case errdefs.IsNotFound(err):
		return "its registry " + host + " answers that it is not there", "Check the name and the tag."
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return "its registry speaks no TLS", "Have it served over HTTPS; with a certificate of your own: bulwark registries allow " + host + " --ca FILE"
	case errors.Is(err, context.DeadlineExceeded):
		return "its registry does not answer", "Check that the server of the registry runs."
	default:
		return text, ""
	}
}

// notReached explains what the proxy did not grant: the registry itself, or a host that the registry sends its clients to.
func notReached(place, reason, host string) (why, hint string) {
	switch reason {
	case "unlisted":
		why = "builds may not reach " + place
		if place != host {
			why = "its registry sends its clients to " + place + ", which builds may not reach"
		}
		return why, "An operator can allow it with: bulwark registries allow --packages " + place
	case "closed_address":
		return place + " leads to an inner address", "An operator who means it can allow it by its whole name: bulwark registries allow --packages " + place
	case "not_resolved":
		name, _, _ := strings.Cut(place, ":")
		return "the name " + name + " could not be resolved", "Check the name, and the resolver of the platform's machine."
	}
	return place + " did not answer", "Check that it can be reached from the platform's machine."
}

// refusedInText finds the proxy's refusal in what BuildKit says, which is all that it tells of it.
var refusedInText = regexp.MustCompile(`"https://([^/"?]+)[^"]*": (Forbidden|Bad Gateway)`)

// whyNotFetched explains an error of BuildKit's own fetching: a layer that lies on another host than the registry.
func whyNotFetched(text string) (why, hint string, ok bool) {
	m := refusedInText.FindStringSubmatch(text)
	if m == nil {
		return "", "", false
	}
	reason := "unlisted"
	if m[2] != "Forbidden" {
		reason = ""
	}
	why, hint = notReached(m[1], reason, m[1])
	return "an image cannot be fetched: " + why, hint, true
}

// used is what the build took, as it goes into the result: images of registries by digest, and bases by name.
func (p *planning) used() []bulwark.ImageUsed {
	out := slices.Clone(p.images)
	for name := range p.bases.stores {
		out = append(out, bulwark.ImageUsed{Base: name})
	}
	slices.SortFunc(out, func(a, b bulwark.ImageUsed) int { return strings.Compare(a.Base+a.Ref, b.Base+b.Ref) })
	return out
}

// registryConfig is the part of buildkitd's configuration that is about registries: each one's own authorities, in files
// of their own in dir.
func registryConfig(dir string, all []bulwark.ImageRegistry) (string, error) {
	var b strings.Builder
	for i, r := range all {
		if r.CA == "" {
			continue
		}
		file := filepath.Join(dir, fmt.Sprintf("registry-%d.pem", i))
		if err := os.WriteFile(file, []byte(r.CA), 0o600); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "[registry.%q]\n  ca = [%q]\n", r.Host, file)
	}
	return b.String(), nil
}

package builder

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// shop is a registry with one image, and with what goes wrong under other names.
func shopRegistry(w http.ResponseWriter, r *http.Request) {
	switch name := strings.Split(r.URL.Path, "/")[2]; name {
	case "good":
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
		w.Header().Set("Content-Length", "10")
	case "odd":
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha512:"+strings.Repeat("a", 128))
		w.Header().Set("Content-Length", "10")
	case "token":
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth.example.org/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case "basic":
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case "forbidden":
		w.WriteHeader(http.StatusForbidden)
	case "teapot":
		w.WriteHeader(http.StatusTeapot)
	default:
		http.NotFound(w, r)
	}
}

// proxyTo is the proxy of a builder: it leads to one place, and refuses the others as the real one does.
func proxyTo(t *testing.T, addr string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "registry.internal:5000" {
			reasons := map[string]string{"inner.internal:5000": "closed_address", "nowhere.internal:5000": "not_resolved", "silent.internal:5000": "not_connected"}
			reason := reasons[r.Host]
			if reason == "" {
				reason = "unlisted"
			}
			w.Header().Set("Bulwark-Egress", reason)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		up, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		down, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, down); up.Close() }()
		_, _ = io.Copy(down, up)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Each way in which a registry can fail has a sentence with the line of the Dockerfile and what to do.
func TestResolveImage(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.HandlerFunc(shopRegistry))
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(http.HandlerFunc(shopRegistry))
	t.Cleanup(plain.Close)
	// httptest's certificate is its own authority and holds for example.com; the name is told to the server below.
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	addr := func(s *httptest.Server) string { u, _ := url.Parse(s.URL); return u.Host }
	for _, c := range []struct {
		from, at, ca, want string
	}{
		{"registry.internal:5000/good:1", addr(secure), "", "the certificate of its registry does not hold: x509: .*bulwark registries allow registry.internal:5000 --ca FILE"},
		{"registry.internal:5000/good:1", addr(plain), ca, "its registry speaks no TLS"},
		{"other.internal:5000/good:1", addr(secure), ca, "builds may not reach other.internal:5000. .*allow --packages other.internal:5000"},
		{"inner.internal:5000/good:1", addr(secure), ca, "inner.internal:5000 leads to an inner address"},
		{"nowhere.internal:5000/good:1", addr(secure), ca, "the name nowhere.internal could not be resolved"},
		{"silent.internal:5000/good:1", addr(secure), ca, "silent.internal:5000 did not answer"},
	} {
		checkResolve(t, c.from, proxyTo(t, c.at), c.ca, c.want)
	}
	// Past TLS the answers are the registry's.
	trust := certified(t)
	proxy := proxyTo(t, addr(trust.server))
	for name, want := range map[string]string{
		"good:1":      "",
		"missing:1":   "cannot be had: its registry registry.internal:5000 answers that it is not there. Check the name and the tag",
		"token:1":     "its registry sends its clients to auth.example.org, which builds may not reach. .*allow --packages auth.example.org",
		"basic:1":     "asks for a password|answers 401",
		"forbidden:1": "its registry answers 403 Forbidden. Images that take a password",
		"teapot:1":    "its registry answers 418",
		"odd:1":       "digest",
	} {
		checkResolve(t, "registry.internal:5000/"+name, proxy, trust.ca, want)
	}
}

func checkResolve(t *testing.T, from, proxy, ca, want string) {
	t.Helper()
	images := []bulwark.ImageRegistry{}
	var hosts []string
	for _, h := range []string{"registry", "other", "inner", "nowhere", "silent"} {
		hosts = append(hosts, h+".internal:5000")
		images = append(images, bulwark.ImageRegistry{Host: h + ".internal:5000", CA: ca})
	}
	check := dockerCheck{file: "Dockerfile", hosts: hosts}
	found, err := check.run([]byte("# first\nFROM " + from + "\n"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", from, found, err)
	}
	p := &planning{job: &job{BuildSetup: bulwark.BuildSetup{Proxy: proxy, Images: images}}}
	err = p.resolveImage(t.Context(), "Dockerfile", &found[0])
	if want == "" {
		if err != nil || found[0].pinned() != from+"@sha256:"+strings.Repeat("a", 64) {
			t.Errorf("%s: %v, %s", from, err, found[0].pinned())
		}
		return
	}
	if err == nil || !matches(t, want, err.Error()) || !strings.HasPrefix(err.Error(), "Dockerfile:2: the image "+from+" cannot be had: ") {
		t.Errorf("%s: %v; want %s", from, err, want)
	}
}

// A build that is cancelled while a registry is silent ends at once, and is no failure of the app's.
func TestResolveImageEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			cancel()
			io.Copy(io.Discard, c)
		}
	}()
	check := dockerCheck{file: "Dockerfile", hosts: []string{"registry.internal:5000"}}
	found, err := check.run([]byte("FROM registry.internal:5000/x\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := &planning{job: &job{BuildSetup: bulwark.BuildSetup{Proxy: "http://" + ln.Addr().String()}}}
	if err := p.resolveImage(ctx, "Dockerfile", &found[0]); err != context.Canceled {
		t.Errorf("%v", err)
	}
}

func TestWhyNotFetched(t *testing.T) {
	for text, want := range map[string]string{
		`failed to copy: httpReadSeeker: failed open: failed to do request: Get "https://cdn.example.org/v2/x?sig=a": Forbidden`: "an image cannot be fetched: builds may not reach cdn.example.org; An operator can allow it with: bulwark registries allow --packages cdn.example.org",
		`failed to do request: Head "https://cdn.example.org:8443/x": Bad Gateway`:                                               "an image cannot be fetched: cdn.example.org:8443 did not answer; Check that it can be reached from the platform's machine.",
		`failed to do request: Head "https://cdn.example.org/x": unexpected status: 403 Forbidden`:                               "",
		`process "/bin/sh -c curl" did not complete successfully`:                                                                "",
	} {
		why, hint, ok := whyNotFetched(text)
		if got := why + "; " + hint; ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q; want %q", text, got, want)
		}
	}
}

// Each registry's authorities are in a file of their own, which the configuration names for that host alone.
func TestRegistryConfig(t *testing.T) {
	dir := t.TempDir()
	text, err := registryConfig(dir, []bulwark.ImageRegistry{{Host: "a.example"}, {Host: "b.internal:5000", CA: "PEM"}})
	if want := fmt.Sprintf("[registry.\"b.internal:5000\"]\n  ca = [%q]\n", dir+"/registry-1.pem"); err != nil || text != want {
		t.Errorf("%q, %v; want %q", text, err, want)
	}
}

type trusted struct {
	server *httptest.Server
	ca     string
}

// certified is a registry whose certificate holds for its name.
func certified(t *testing.T) trusted {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"registry.internal"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(shopRegistry))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return trusted{s, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func matches(t *testing.T, re, s string) bool {
	t.Helper()
	return regexp.MustCompile("(?s)" + re).MatchString(s)
}

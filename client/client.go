// Package client is the typed client of a Bulwark server's HTTP API, which openapi.json describes. It promises to speak
// to no other server than the one whose authority it was given, and to show the server nothing but the device's public
// key: whatever changes an app is a statement that the caller signed, see package statement.
//
// Whoever owns the machine that runs it holds the device key.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// patience is how long a server may take to accept a connection.
const patience = 10 * time.Second

// Client speaks to one server as one device.
type Client struct {
	base string
	http *http.Client
}

// Config says to whom, and as whom.
type Config struct {
	URL    string             // "https://localhost:8443"
	CA     []byte             // PEM: the only authorities that are believed
	Device ed25519.PrivateKey // signs in by TLS client authentication; nil for the few calls that need nobody
}

// New makes a client. It does not connect yet.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, bulwark.Invalid("The address of the server is not well formed.", "It begins with https://, for example https://localhost:8443.")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.CA) {
		return nil, bulwark.Invalid("The server's certificate authority cannot be read.", "Sign in again with bulwark login.")
	}
	t := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	if c.Device != nil {
		cert, err := deviceCertificate(c.Device)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return &Client{base: strings.TrimSuffix(u.String(), "/"), http: &http.Client{
		Transport: &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, TLSHandshakeTimeout: patience,
			DialContext: (&net.Dialer{Timeout: patience}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// deviceCertificate wraps the device key into a certificate that says nothing: the server looks at the key alone.
func deviceCertificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bulwark device"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// call sends in as JSON and decodes the answer into out; either may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	res, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// ask is call for an answer of type T.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, method, path, in, &out)
	return out, err
}

func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/v1"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.send(ctx, req)
}

// Probe makes a request by method and path and returns the status and the beginning of the answer, whatever it is.
// It is for programs that look at how the API answers.
func (c *Client) Probe(ctx context.Context, method, path string, in any) (status int, answer string, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, "", err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return 0, "", err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(b), err
}

// send makes a request and turns a failure, of the connection or of the server, into one for people.
func (c *Client) send(ctx context.Context, req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return nil, bulwark.Fail(bulwark.KindForbidden, "What answers at "+c.base+" is not the server that you know by this address.",
				"Check the address. If the server was installed anew or has another name now, sign in again with bulwark login.", err)
		}
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The server does not answer at "+c.base+".",
			"Check the address, and on the machine bulwark status.", err)
	}
	if res.StatusCode/100 == 2 || res.StatusCode == http.StatusSwitchingProtocols {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var e bulwark.Error
	if err == nil && json.Unmarshal(b, &e) == nil && e.Kind != "" {
		return nil, &e
	}
	return nil, bulwark.Fail(bulwark.KindUnavailable, "The server answered "+res.Status+".", "See the server's log.", errors.Join(err, errors.New(string(b))))
}

// stream calls a path that answers with JSON lines and passes each to f.
func stream[T any](ctx context.Context, c *Client, method, path string, in any, f func(T) error) error {
	res, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // a sign of life
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return lines.Err()
}

func esc(s string) string { return url.PathEscape(s) }

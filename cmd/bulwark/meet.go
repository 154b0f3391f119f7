package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// meet finds out the authorities of a server that is known by its node's key alone, and makes sure that the server at
// the address has a certificate of theirs.
func (c *cli) meet(ctx context.Context, address string, node statement.Key) (*statement.Info, error) {
	var info *statement.Info
	err := c.during("Connecting to "+address, func() error {
		first, err := firstContact(ctx, address)
		if err != nil {
			return err
		}
		if info, err = openInfo(first.Envelope, node); err != nil {
			return err
		}
		// From here on the node's authorities are the only ones that are believed, so the answer is asked for once more: this
		// one is the server's own and of today.
		cl, err := client.New(client.Config{URL: address, CA: info.CA})
		if err != nil {
			return err
		}
		again, err := cl.Info(ctx, "")
		if err != nil {
			return err
		}
		info, err = openInfo(again.Envelope, node)
		return err
	})
	return info, err
}

// firstContact fetches what a server says about itself without verifying its TLS certificate: there is no authority yet
// to verify it by. This is safe because nothing is sent but the request for /v1/info, and the answer proves itself: its
// envelope is signed by the node's key, which came with the login token and not over this connection. Whoever stands
// between can withhold the answer or repeat an older one of the same node, and every byte of another is refused by
// openInfo. No other request goes over a connection made here.
func firstContact(ctx context.Context, address string) (client.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var info client.Info
	away := func(err error) (client.Info, error) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return info, ctx.Err()
		}
		return info, bulwark.Fail(bulwark.KindUnavailable, "No Bulwark server answers at "+address+".", "Check the address and its port.", err)
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}} //nolint:gosec // see above: the answer proves itself
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/v1/info", nil)
	if err != nil {
		return info, err
	}
	res, err := t.RoundTrip(req) // not a Client: no redirect is followed
	if err != nil {
		return away(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return away(fmt.Errorf("it answers %s", res.Status))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 8<<20)).Decode(&info); err != nil {
		return away(err)
	}
	return info, nil
}

// openInfo verifies the node's word on itself.
func openInfo(envelope []byte, node statement.Key) (*statement.Info, error) {
	var info statement.Info
	stranger := func(err error) (*statement.Info, error) {
		return nil, bulwark.Fail(bulwark.KindForbidden, "The server is not the one that you know: its word is not signed by the node "+node.Fingerprint+".",
			"Check the address; if it is right, somebody stands between, or the server was installed anew: then ask its operator for a new login token.", err)
	}
	if err := statement.Open(envelope, statement.InfoPayloadType, node, &info); err != nil {
		return stranger(err)
	}
	if info.Version != 1 || info.Node != node.Fingerprint || string(info.Key) != string(node.PKIX()) {
		return stranger(fmt.Errorf("it names another node"))
	}
	return &info, nil
}

// serverURL brings the address of a server into one form: "https://host:port", lower case, without anything behind.
func serverURL(s string) (string, error) {
	bad := bulwark.Invalid("The address "+quote(s)+" is not well formed.", "Give one such as https://localhost:8443.")
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", bad
	}
	return "https://" + strings.ToLower(u.Host), nil
}

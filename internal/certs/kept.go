package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// node is the node as this process sees it. It implements [certmagic.Storage].
type node struct {
	http *http.Client

	mu    sync.Mutex // guards locks
	locks map[string]chan struct{}
}

func newNode(socket string) *node {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &node{http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 8, IdleConnTimeout: 30 * time.Second}},
		locks: map[string]chan struct{}{}}
}

// askTime is what the node has to answer, but for a question that waits for something to change.
const askTime = 20 * time.Second

func (n *node) ask(ctx context.Context, method, path string, q url.Values, in []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime+waitTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path+"?"+q.Encode(), bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	res, err := n.http.Do(req)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The node is away.", "", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	switch {
	case err != nil:
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The node broke its answer off.", "", err)
	case res.StatusCode == http.StatusNotFound:
		return nil, fs.ErrNotExist
	case res.StatusCode/100 != 2:
		return nil, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The node answers %s: %s", res.Status, b), "", nil)
	}
	return b, nil
}

// waitTime is how long the node may wait for orders to change before it answers.
const waitTime = 25 * time.Second

// orders waits until the orders are others than those with a version, for a time.
func (n *node) orders(ctx context.Context, have string) (*certsapi.Orders, error) {
	b, err := n.ask(ctx, http.MethodGet, "/orders", url.Values{"have": {have}}, nil)
	if err != nil {
		return nil, err
	}
	var o certsapi.Orders
	return &o, json.Unmarshal(b, &o)
}

func (n *node) tell(ctx context.Context, all []certsapi.Status) error {
	b, err := json.Marshal(all)
	if err == nil {
		_, err = n.ask(ctx, http.MethodPut, "/status", nil, b)
	}
	return err
}

// Store implements [certmagic.Storage].
func (n *node) Store(ctx context.Context, key string, value []byte) error {
	_, err := n.ask(ctx, http.MethodPut, "/kept", url.Values{"key": {key}}, value)
	return err
}

// Load implements [certmagic.Storage].
func (n *node) Load(ctx context.Context, key string) ([]byte, error) {
	return n.ask(ctx, http.MethodGet, "/kept", url.Values{"key": {key}}, nil)
}

// Delete implements [certmagic.Storage]: a folder with all that is in it.
func (n *node) Delete(ctx context.Context, key string) error {
	_, err := n.ask(ctx, http.MethodDelete, "/kept", url.Values{"key": {key}}, nil)
	return err
}

// Exists implements [certmagic.Storage].
func (n *node) Exists(ctx context.Context, key string) bool {
	all, err := n.list(ctx, key)
	return err == nil && len(all) > 0
}

// Stat implements [certmagic.Storage].
func (n *node) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	all, err := n.list(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	for _, k := range all {
		if k.Key == key {
			return certmagic.KeyInfo{Key: key, Modified: k.Modified, Size: k.Size, IsTerminal: true}, nil
		}
	}
	if len(all) == 0 {
		return certmagic.KeyInfo{}, fs.ErrNotExist
	}
	return certmagic.KeyInfo{Key: key}, nil
}

// List implements [certmagic.Storage].
func (n *node) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	all, err := n.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []string
	for _, k := range all {
		rest := strings.TrimPrefix(strings.TrimPrefix(k.Key, prefix), "/")
		if rest == "" {
			continue
		}
		parts := strings.Split(rest, "/")
		most := 1
		if recursive {
			most = len(parts)
		}
		for i := range most {
			if name := path.Join(prefix, path.Join(parts[:i+1]...)); !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	if len(out) == 0 {
		return nil, fs.ErrNotExist
	}
	return out, nil
}

// list returns a thing, or all that is below a folder.
func (n *node) list(ctx context.Context, prefix string) ([]certsapi.Kept, error) {
	b, err := n.ask(ctx, http.MethodGet, "/keys", url.Values{"below": {prefix}}, nil)
	if err != nil {
		return nil, err
	}
	var out []certsapi.Kept
	return out, json.Unmarshal(b, &out)
}

// Lock implements [certmagic.Locker]. This process is the only one, so its own memory will do; after a kill nothing is locked.
func (n *node) Lock(ctx context.Context, name string) error {
	for {
		n.mu.Lock()
		held, taken := n.locks[name]
		if !taken {
			n.locks[name] = make(chan struct{})
		}
		n.mu.Unlock()
		if !taken {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-held:
		}
	}
}

// Unlock implements [certmagic.Locker].
func (n *node) Unlock(_ context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	held, taken := n.locks[name]
	if !taken {
		return fmt.Errorf("certs: %s is not locked", name)
	}
	delete(n.locks, name)
	close(held)
	return nil
}

//go:build bench

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBenchEdge is `make bench-edge`: the edge alone, beside what others have for the job. As in TestBench, nothing fails because it is slow.
func TestBenchEdge(t *testing.T) {
	// Memory first: what was served before leaves some.
	take(t, []measure{{name: "idle", take: benchIdle}, {name: "hosts", take: benchHosts}, {name: "get", take: benchGet}, {name: "p99", take: benchTail},
		{name: "waf", take: benchWAF}, {name: "shield", take: benchShield}, {name: "swaps", take: benchSwaps}, {name: "profile", take: benchProfile, asked: true}})
}

// served makes an app of the stories' image, with peers that have the same program behind them.
func (b *bench) served(app string) (*person, *peers, error) {
	p, err := b.person()
	if err == nil {
		err = p.image(app, "1")
	}
	if err != nil {
		return nil, nil, err
	}
	others, err := newPeers(filepath.Join(b.work, app), app+"."+domain)
	return p, others, err
}

// ours is the edge as the peers are: what a request takes of it is the edge's, and that of dial, which makes its connections.
func (b *bench) ours() (*peer, error) {
	edge, err := b.on.pid("edge")
	dial, derr := b.on.pid("dial")
	return &peer{name: "edge", port: b.on.ports["HTTPS"], pids: []int{edge, dial}}, errors.Join(err, derr)
}

// gone destroys an app.
func (p *person) gone(app string) error {
	_, err := p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app)
	return err
}

// costs measures what requests take of each peer, by turns. The first round warms up.
func (b *bench) costs(c counter, all []*peer, host string, requests int, before func(i int) error, args ...string) ([][]float64, error) {
	out := make([][]float64, len(all))
	for round := range *benchRuns + 1 {
		for i, at := range all {
			if before != nil {
				if err := before(i); err != nil {
					return nil, err
				}
			}
			cost, err := c.load(at, host, requests, args...)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at.name, err)
			}
			if round > 0 {
				out[i] = append(out[i], cost)
			}
		}
	}
	return out, nil
}

// benchGet measures what a GET of 1 KiB takes, with nothing of the shield but what nobody can switch off, as the others have none; and as an app has it by
// default.
func benchGet(b *bench) (err error) {
	const app, requests = "bench-get", 20_000
	host := app + "." + domain
	p, others, err := b.served(app)
	if err != nil {
		return err
	}
	defer others.end()
	c := newCounter(b.work)
	us, err := b.ours()
	if err != nil {
		return err
	}
	nginx, err := others.nginx("nginx", 1024, "", "")
	if err != nil {
		return err
	}
	haproxy, err := others.haproxy()
	if err != nil {
		return err
	}
	plain, err := others.reverseProxy()
	if err != nil {
		return err
	}
	// The edge is in it twice: without the firewall, and with it as it is for every app.
	all := []*peer{us, us, nginx, haproxy, plain}
	modes := []string{"off", "detect"}
	before := func(i int) error {
		if i >= len(modes) {
			return nil
		}
		_, err := p.run("", "bulwark", "shield", app, "waf", modes[i])
		return err
	}
	for _, kind := range []struct {
		name               string
		args               []string
		most, nginx, plain float64 // thousand instructions: the goal, and what nginx and ReverseProxy took on the machine on which it was chosen
	}{{"h1", []string{"--h1", "-c", "16"}, 170, 79, 219}, {"h2", []string{"-c", "4", "-m", "8"}, 300, 76, 308}} {
		spent, err := b.costs(c, all, host, requests, before, kind.args...)
		if err != nil {
			return err
		}
		how := fmt.Sprintf("%s, `h2load %s`, %d requests for 1 KiB, TLS 1.3, by turns", c.how, strings.Join(kind.args, " "), requests)
		name := "a GET over " + kind.name
		add := func(suffix string, other int, whom, how string, g *goal) {
			b.add(result{Name: name + ", firewall off" + suffix, Unit: c.unit, Ours: digested(spent[0]...), Peer: digested(spent[other]...), Whom: whom, How: how}, g)
		}
		if c.perf != "" {
			add("", 2, "nginx", how, &goal{most: kind.most})
			add("", 4, "ReverseProxy", "the same", nil)
		} else {
			// The goal is a number of instructions. What it is of each peer's was measured elsewhere; of time it says something else of each.
			add("", 2, "nginx", how+"; the goal in instructions, of nginx' instructions", &goal{most: kind.most / kind.nginx, ratio: true})
			add("", 4, "ReverseProxy", "the same; the goal in instructions, of ReverseProxy's instructions", &goal{most: kind.most / kind.plain, ratio: true})
		}
		add(": as good as nginx", 2, "nginx", "the same", &goal{most: 1, ratio: true})
		add("", 3, "HAProxy", "the same", nil)
		b.add(result{Name: name + ", as an app has it by default", Unit: c.unit, Ours: digested(spent[1]...), Peer: digested(spent[2]...), Whom: "nginx",
			How: "the same; the firewall looks after the answer, at as many as half of a processor can"}, nil)
	}
	return p.gone(app)
}

// benchTail compares how long the slowest hundredth of requests takes when they come at fixed times, whatever becomes of those before.
func benchTail(b *bench) error {
	const app, perSecond, long = "bench-tail", 2000, 5 * time.Second
	p, others, err := b.served(app)
	if err != nil {
		return err
	}
	defer others.end()
	nginx, err := others.nginx("nginx", 1024, "", "")
	if err != nil {
		return err
	}
	us, err := b.ours()
	if err != nil {
		return err
	}
	all := []*peer{us, us, nginx}
	for _, h2 := range []bool{false, true} {
		p99, p50 := make([][]float64, len(all)), make([][]float64, len(all))
		for round := range *benchRuns + 1 {
			for i, at := range all {
				if i < 2 {
					if _, err := p.run("", "bulwark", "shield", app, "waf", []string{"off", "detect"}[i]); err != nil {
						return err
					}
				}
				took, err := openLoop(b.on, "https://"+app+"."+domain+":"+at.port+"/kilobyte", h2, perSecond, long)
				if err != nil {
					return fmt.Errorf("%s: %w", at.name, err)
				}
				if round > 0 {
					p99[i], p50[i] = append(p99[i], quantile(took, 0.99)), append(p50[i], quantile(took, 0.5))
				}
			}
		}
		proto := map[bool]string{false: "h1", true: "h2"}[h2]
		how := fmt.Sprintf("GET of 1 KiB, sent when it is due whatever becomes of those before, timed from then, on at most %d connections; %d s each, by turns; the sender shares the processors", openLoopConns, int(long.Seconds()))
		for i, name := range []string{"firewall off", "as an app has it by default"} {
			b.add(result{Name: fmt.Sprintf("p99 at %d requests a second, %s, %s", perSecond, proto, name), Unit: "ms", Ours: digested(p99[i]...), Peer: digested(p99[2]...), Whom: "nginx", How: how}, &goal{most: 2, ratio: true})
			b.add(result{Name: fmt.Sprintf("p50 at %d requests a second, %s, %s", perSecond, proto, name), Unit: "ms", Ours: digested(p50[i]...), Peer: digested(p50[2]...), Whom: "nginx", How: "the same"}, nil)
		}
	}
	return p.gone(app)
}

const openLoopConns = 64

// openLoop sends requests at fixed times and returns how long each took from when it was due, in milliseconds; that one failed is an error.
func openLoop(on *installation, address string, h2 bool, perSecond int, long time.Duration) ([]float64, error) {
	t, err := on.transport(h2)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig.InsecureSkipVerify = true // a peer's certificate is signed by itself
	// What finds none free waits for one, and is timed meanwhile: new connections in the place of slow ones would be another load.
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost = openLoopConns, openLoopConns
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t, Timeout: 30 * time.Second}
	n := int(long.Seconds() * float64(perSecond))
	took, failed := make([]float64, n), make([]error, n)
	var wg sync.WaitGroup
	one := func(i int, due time.Time) {
		res, err := c.Get(address)
		if err == nil {
			_, err = discard(res)
		}
		took[i], failed[i] = ms(time.Since(due)), err
	}
	for range openLoopConns { // connections that stand
		wg.Go(func() { one(0, time.Now()) })
	}
	wg.Wait()
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due))
		wg.Go(func() { one(i, due) })
	}
	wg.Wait()
	return took, errors.Join(failed...)
}

// benchWAF compares what the firewall takes, where it refuses, with nginx and ModSecurity: with the rule set that Debian has, and with the version that ours has.
func benchWAF(b *bench) error {
	const app = "bench-waf"
	host := app + "." + domain
	p, others, err := b.served(app)
	if err != nil {
		return err
	}
	defer others.end()
	us, err := b.ours()
	if err != nil {
		return err
	}
	debian, err := others.modsecurity("ModSecurity", false)
	if err != nil {
		return err
	}
	same, err := others.modsecurity("ModSecurity-same", true)
	if err != nil {
		return err
	}
	if _, err := p.run("", "bulwark", "shield", app, "waf", "block"); err != nil {
		return err
	}
	all := []*peer{us, debian, same}
	bodies, err := wafBodies(b.work)
	if err != nil {
		return err
	}
	form, err := os.ReadFile(bodies["form"])
	if err != nil {
		return err
	}
	for _, at := range all { // that all of them look, into the last of a body too
		for _, body := range []string{"", string(form) + "&last=" + url.QueryEscape(hostileText)} {
			if err := b.refuses(at, host, body); err != nil {
				return fmt.Errorf("%s: %w", at.name, err)
			}
		}
	}
	c := newCounter(b.work)
	for _, kind := range []struct {
		name     string
		requests int
		most     float64
		args     []string
	}{
		{"GET", 1000, 0.75, nil},
		{"POST of 2 KB of JSON", 200, 1.0, []string{"-d", bodies["json"], "-H", "content-type: application/json"}},
		{"POST of a form of 64 KB", 60, 0.8, []string{"-d", bodies["form"], "-H", "content-type: application/x-www-form-urlencoded"}},
	} {
		spent, err := b.costs(c, all, host, kind.requests, nil, append([]string{"--h1", "-c", "2"}, kind.args...)...)
		if err != nil {
			return err
		}
		how := fmt.Sprintf("%s, %d requests over h1, on 2 connections, by turns; ", c.how, kind.requests)
		b.add(result{Name: "firewall that blocks: " + kind.name, Unit: c.unit, Ours: digested(spent[0]...), Peer: digested(spent[1]...), Whom: "nginx, ModSecurity 3, CRS 3.3",
			How: how + "each with the rule set that it comes with, level 1"}, &goal{most: kind.most, ratio: true})
		b.add(result{Name: "firewall that blocks: " + kind.name, Unit: c.unit, Ours: digested(spent[0]...), Peer: digested(spent[2]...), Whom: "nginx, ModSecurity 3, CRS 4.25",
			How: "the same; the peer has the version of the rule set that ours has"}, &goal{most: kind.most, ratio: true})
	}
	return p.gone(app)
}

// hostileText is an attack that every rule set knows.
const hostileText = "<script>alert(document.cookie)</script>"

// refuses says whether a peer refuses an attack: in the query, or in a form.
func (b *bench) refuses(at *peer, host, form string) error {
	t, err := b.on.transport(false)
	if err != nil {
		return err
	}
	t.TLSClientConfig.InsecureSkipVerify = true
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t, Timeout: 30 * time.Second}
	address := "https://" + host + ":" + at.port + "/kilobyte"
	var res *http.Response
	if form == "" {
		res, err = c.Get(address + "?q=" + url.QueryEscape(hostileText))
	} else {
		res, err = c.Post(address, "application/x-www-form-urlencoded", strings.NewReader(form))
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		return fmt.Errorf("an attack, with a form of %d bytes, was answered with %s", len(form), res.Status)
	}
	return nil
}

// wafBodies writes bodies as apps get them to files: an order, and a form with a long text.
func wafBodies(dir string) (map[string]string, error) {
	order := `{"customer": {"name": "Ada Byron", "mail": "ada@example.org", "city": "Oxford"}, "items": [`
	for i := 0; len(order) < 1950; i++ {
		order += fmt.Sprintf(`{"article": "shelf-%d", "count": %d, "price": %d.50, "note": "oak, as last time"}, `, 1000+i, 1+i%5, 20+i)
	}
	order += `{"article": "screw", "count": 9, "price": 1, "note": ""}]}`
	const prose = "We looked at the house in the morning and found the roof in good order although the windows want paint before the winter comes. "
	form := url.Values{}
	for i := range 16 {
		form.Set("chapter"+strconv.Itoa(i), strings.Repeat(prose, 33)[:4080])
	}
	out := map[string]string{}
	for name, text := range map[string]string{"json": order, "form": form.Encode()} {
		out[name] = filepath.Join(dir, "body."+name)
		if err := os.WriteFile(out[name], []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return out, nil
}

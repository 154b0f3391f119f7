//go:build bench

package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// protection is what somebody may switch on for an app.
type protection struct {
	name    string
	on, off []string // arguments of bulwark shield
	args    []string // of h2load, beside those that all have
	slow    bool     // it is measured at a rate at which nothing that it does is left out
}

// benchShield measures what each protection takes of a request when it alone is on, beside what a request takes with all off.
func benchShield(b *bench) error {
	const app, patch = "bench-shield", "bench-patch"
	host := app + "." + domain
	p, err := b.person()
	if err != nil {
		return err
	}
	if err := p.image(app, "1"); err != nil {
		return err
	}
	shield := func(args ...string) error {
		_, err := p.run("", "bulwark", append([]string{"shield"}, args...)...)
		return err
	}
	if err := shield(app, "waf", "off", "challenge", "on"); err != nil {
		return err
	}
	cookie, err := b.on.pass(app)
	if err = errors.Join(err, shield(app, "challenge", "off")); err != nil {
		return err
	}
	rules := filepath.Join(b.work, patch+".conf")
	if err := os.WriteFile(rules, []byte("SecRule REQUEST_HEADERS|ARGS \"@contains ${jndi:\" \"id:1000,phase:1,deny,msg:'a bench'\"\n"), 0o644); err != nil {
		return err
	}
	many := []string{app}
	forget := []string{app}
	for i := range 500 { // as many as one command takes
		n := fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)
		many, forget = append(many, "deny", n), append(forget, "forget", n)
	}
	all := []protection{
		{name: "TLS 1.3 alone", on: []string{app, "tls", "modern"}, off: []string{app, "tls", "intermediate"}},
		{name: "a limit for each client", on: []string{app, "limit", "1000000r/s"}, off: []string{app, "limit", "off"}},
		{name: "a limit for the app", on: []string{app, "limit", "1000000r/s", "--per", "app"}, off: []string{app, "limit", "off", "--per", "app"}},
		{name: "a limit for a path", on: []string{app, "limit", "1000000r/s", "--path", "/kilobyte"}, off: []string{app, "limit", "off", "--path", "/kilobyte"}},
		{name: "a network denied", on: []string{app, "deny", "198.51.100.0/24"}, off: []string{app, "forget", "198.51.100.0/24"}},
		{name: "500 networks denied", on: many, off: forget},
		{name: "the client's network allowed", on: []string{app, "allow", "127.0.0.0/8"}, off: []string{app, "forget", "127.0.0.0/8"}},
		{name: "challenge, passed before", on: []string{app, "challenge", "on"}, off: []string{app, "challenge", "off"}, args: []string{"-H", "cookie: " + cookie}},
		{name: "a virtual patch, phase 1", on: []string{"patch", "add", rules, "--name", patch}, off: []string{"patch", "remove", patch}},
		{name: "firewall that notes, all it can look at", on: []string{app, "waf", "detect"}, off: []string{app, "waf", "off"}},
		{name: "firewall that notes, 400 requests a second", on: []string{app, "waf", "detect"}, off: []string{app, "waf", "off"}, slow: true},
		{name: "firewall that blocks, 400 requests a second", on: []string{app, "waf", "block"}, off: []string{app, "waf", "off"}, slow: true},
	}
	us, err := b.ours()
	if err != nil {
		return err
	}
	c := newCounter(b.work)
	spent, without := make([][]float64, len(all)), make([][]float64, len(all))
	skipped := 0
	for round := range *benchRuns + 1 { // the first warms up
		for i, what := range all {
			requests, args := 10_000, []string{"--h1", "-c", "16"}
			if what.slow {
				requests, args = 1000, []string{"--h1", "-c", "4", "--rps", "100"}
			}
			args = append(args, what.args...)
			// Without it before and after: a machine that becomes busier meanwhile is nobody's cost.
			before, err := c.load(us, host, requests, args...)
			if err == nil {
				err = shield(what.on...)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", what.name, err)
			}
			left, err := p.skipped(app)
			if err != nil {
				return err
			}
			on, err := c.load(us, host, requests, args...)
			now, serr := p.skipped(app)
			if err := errors.Join(err, serr, shield(what.off...)); err != nil {
				return fmt.Errorf("%s: %w", what.name, err)
			}
			after, err := c.load(us, host, requests, args...)
			if err != nil {
				return err
			}
			if round > 0 {
				without[i], spent[i] = append(without[i], (before+after)/2), append(spent[i], on)
			}
			if what.slow {
				skipped += now - left
			}
		}
	}
	for i, what := range all {
		how := fmt.Sprintf("%s, `h2load --h1 -c 16`, 10000 requests for 1 KiB; without it, with it, and without it, by turns", c.how)
		if what.slow {
			how = fmt.Sprintf("%s, 1000 requests at 400 a second, by the same turns; %d in all were not looked at", c.how, skipped)
		}
		b.add(result{Name: what.name, Unit: c.unit, Ours: digested(spent[i]...), Peer: digested(without[i]...), Whom: "all off", How: how}, nil)
	}
	return p.gone(app)
}

// skipped is how many requests the firewall did not look at in the last hour.
func (p *person) skipped(app string) (int, error) {
	out, err := p.run("", "bulwark", "shield", app, "--json")
	if err != nil {
		return 0, err
	}
	var v struct {
		Hour struct {
			Counts map[string]int `json:"counts"`
		} `json:"hour"`
	}
	err = json.Unmarshal([]byte(out), &v)
	return v.Hour.Counts["waf-skipped"], err
}

var powMark = regexp.MustCompile(`data-bits="(\d+)" data-mark="([^"]+)"`)

// pass computes what a browser computes which an app's challenge asks, and returns the cookie that lets it in.
func (i *installation) pass(app string) (string, error) {
	c, err := i.client(false)
	if err != nil {
		return "", err
	}
	defer c.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, i.url(app)+"/", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "text/html")
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	page, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		return "", err
	}
	asked := powMark.FindSubmatch(page)
	if asked == nil {
		return "", fmt.Errorf("the challenge asks nothing: %s %.500q", res.Status, page)
	}
	want, err := strconv.Atoi(string(asked[1]))
	if err != nil {
		return "", err
	}
	answer := ""
	for n := 0; answer == ""; n++ {
		try := string(asked[2]) + "." + strconv.Itoa(n)
		if sum := sha256.Sum256([]byte(try)); bits.LeadingZeros32(binary.BigEndian.Uint32(sum[:])) >= want {
			answer = try
		}
	}
	res, err = c.Post(i.url(app)+"/.well-known/bulwark/challenge", "text/plain", strings.NewReader(answer))
	if err != nil {
		return "", err
	}
	res.Body.Close()
	for _, k := range res.Cookies() {
		return k.Name + "=" + k.Value, nil
	}
	return "", fmt.Errorf("the challenge was answered, and nobody was let in: %s", res.Status)
}

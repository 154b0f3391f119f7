//go:build bench

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// The flags of `make bench` and `make bench-edge`.
var (
	benchOnly  = flag.String("only", "", "measures to take, with commas between; default all")
	benchRuns  = flag.Int("runs", 10, "how often each thing is measured")
	benchJSON  = flag.String("json", "", "also write the results to this file")
	benchPeer  = flag.String("nginx", "", "path of nginx, which is measured beside")
	benchPeers = flag.String("peers", "", "directory in which Debian's packages of what the edge is measured beside are unpacked")
)

// measure is one of those that -only names.
type measure struct {
	name  string
	take  func(*bench) error
	asked bool // it is taken only when it is named
}

// TestBench is `make bench`: it takes the numbers on an installation of its own and prints one table. Nothing here fails
// because it is slow; it fails when something that is measured does not work.
func TestBench(t *testing.T) {
	// Memory first: it wants an installation that has seen nothing.
	take(t, []measure{{name: "memory", take: benchMemory}, {name: "start", take: benchStart}, {name: "push", take: benchPush}, {name: "rollout", take: benchRollout},
		{name: "edge", take: benchEdge}, {name: "audit", take: benchAudit}, {name: "flood", take: benchFlood}, {name: "posture", take: benchPosture},
		{name: "hundred", take: benchHundred}})
}

// take takes those of the measures that are wanted, and prints the table.
func take(t *testing.T, all []measure) {
	b := &bench{t: t, on: shared, work: t.TempDir()}
	known := []string{}
	wanted := strings.FieldsFunc(*benchOnly, func(r rune) bool { return r == ',' || r == ' ' })
	for _, m := range all {
		known = append(known, m.name)
		if len(wanted) > 0 && !slices.Contains(wanted, m.name) || len(wanted) == 0 && m.asked {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "== %s\n", m.name)
		b.measure = m.name
		if err := m.take(b); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		fmt.Fprintf(os.Stderr, "   %s took %.0f s\n", m.name, time.Since(began).Seconds())
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			t.Errorf("there is no measure %s; there are %s", w, strings.Join(known, ", "))
		}
	}
	printTable(os.Stdout, b.results)
	if *benchJSON != "" {
		text, err := json.MarshalIndent(b.results, "", "  ")
		if err = errors.Join(err, os.WriteFile(*benchJSON, append(text, '\n'), 0o644)); err != nil {
			t.Error(err)
		}
	}
}

// bench is what the measures share.
type bench struct {
	t       *testing.T
	on      *installation
	work    string
	who     *person // who deploys; made when first asked for
	measure string
	results []result
}

// result is one line of the table.
type result struct {
	Measure string  `json:"measure"`
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Ours    *digest `json:"ours,omitempty"`
	Peer    *digest `json:"peer,omitempty"`
	Whom    string  `json:"peer_name,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Goal    string  `json:"goal,omitempty"`
	Met     *bool   `json:"met,omitempty"`
	How     string  `json:"how"`
}

// digest is the middle of several values, and where the middle half of them lies.
type digest struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`  // first quartile
	High   float64 `json:"high"` // third quartile
	N      int     `json:"n"`
}

func digested(values ...float64) *digest {
	if len(values) == 0 {
		return nil
	}
	return &digest{Median: quantile(values, 0.5), Low: quantile(values, 0.25), High: quantile(values, 0.75), N: len(values)}
}

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	low := int(at)
	if low+1 == len(s) {
		return s[low]
	}
	return s[low] + (s[low+1]-s[low])*(at-float64(low))
}

// goal is what the issue asks for: at most so much of the value, or of the ratio.
type goal struct {
	most  float64
	ratio bool
}

func (b *bench) add(r result, g *goal) {
	r.Measure = b.measure
	if r.Ours != nil && r.Peer != nil && r.Peer.Median > 0 {
		r.Ratio = r.Ours.Median / r.Peer.Median
	}
	if g != nil {
		got := r.Ours.Median
		r.Goal = "≤" + short(g.most) + " " + r.Unit
		if g.ratio {
			got, r.Goal = r.Ratio, "≤"+short(g.most)+"×"
		}
		met := got <= g.most
		r.Met = &met
	}
	b.results = append(b.results, r)
	printTable(os.Stderr, []result{r})
}

func short(f float64) string {
	switch a := math.Abs(f); {
	case a >= 100 || f == math.Trunc(f):
		return strconv.FormatFloat(f, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

func (d *digest) String() string {
	if d == nil {
		return "–"
	}
	if d.N == 1 {
		return short(d.Median)
	}
	return fmt.Sprintf("%s (%s…%s)", short(d.Median), short(d.Low), short(d.High))
}

// printTable prints results as the table of docs/numbers.md.
func printTable(w io.Writer, results []result) {
	fmt.Fprintln(w, "\n| | ours | raw or peer | ratio | goal | how |\n|---|---|---|---|---|---|")
	for _, r := range results {
		peer, ratio, aim := "", "", r.Goal
		if r.Peer != nil {
			peer = r.Peer.String() + " " + r.Whom
		}
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.Met != nil {
			aim += map[bool]string{true: " met", false: " **missed**"}[*r.Met]
		}
		fmt.Fprintf(w, "| %s: %s, %s | %s | %s | %s | %s | %s |\n", r.Measure, r.Name, r.Unit, r.Ours, peer, ratio, aim, r.How)
	}
}

// person is somebody with a home of their own who is signed in.
type person struct {
	on   *installation
	home string
	env  []string
}

// person returns the one who deploys.
func (b *bench) person() (*person, error) {
	if b.who != nil {
		return b.who, nil
	}
	p, err := newPerson(b.on, filepath.Join(b.work, "persons"))
	b.who = p
	return p, err
}

func newPerson(on *installation, dir string) (*person, error) {
	p := &person{on: on, home: filepath.Join(dir, "home", "bench"),
		env: append(persona(dir, "bench"), "PATH="+filepath.Dir(with.bulwark)+":/usr/local/bin:/usr/bin:/bin")}
	if err := os.MkdirAll(p.home, 0o700); err != nil {
		return nil, err
	}
	token, err := on.run("token")
	if err != nil {
		return nil, err
	}
	_, err = p.run("", "bulwark", "login", "https://localhost:"+on.ports["API"], "--token", strings.TrimSpace(token))
	return p, err
}

// run runs a program in dir and returns its standard output.
func (p *person) run(dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	path := name
	if name == "bulwark" {
		path = with.bulwark
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = dir, p.env
	if dir == "" {
		cmd.Dir = p.home
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// image deploys the stories' app as an image that was built elsewhere, as often as there are versions.
func (p *person) image(app string, versions ...string) error {
	if _, err := p.run("", "bulwark", "apps", "create", app); err != nil {
		return err
	}
	for _, v := range versions {
		text, err := probeImage(v)
		if err != nil {
			return err
		}
		file := filepath.Join(p.home, app+".tar")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return err
		}
		if _, err := p.run("", "bulwark", "deploy", "--image", file, "--app", app); err != nil {
			return err
		}
	}
	return nil
}

func (i *installation) url(app string) string {
	return "https://" + app + "." + domain + ":" + i.ports["HTTPS"]
}

// get asks for a page until it answers with 200 and text that ok likes.
func (i *installation) get(c *http.Client, url string, every, within time.Duration, ok func(string) bool) error {
	var last error
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(every) {
		res, err := c.Get(url)
		if err != nil {
			last = err
			continue
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK && ok(string(text)) {
			return nil
		}
		last = fmt.Errorf("%s: %.200s", res.Status, text)
	}
	return fmt.Errorf("%s: not within %s: %w", url, within, last)
}

// client is for one connection to the edge that stays.
func (i *installation) client(h2 bool) (*http.Client, error) {
	t, err := i.transport(h2)
	return &http.Client{Transport: t, Timeout: 30 * time.Second}, err
}

// events are those of the newest operation, with the times at which the server heard of them.
func (i *installation) events() ([]client.Event, error) {
	files, err := filepath.Glob(filepath.Join(i.root, "server", "operations", "*.ndjson"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there is no operation: %w", err)
	}
	modified := func(f string) time.Time {
		st, err := os.Stat(f)
		if err != nil {
			return time.Time{}
		}
		return st.ModTime()
	}
	newest := slices.MaxFunc(files, func(a, b string) int { return modified(a).Compare(modified(b)) })
	f, err := os.Open(newest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []client.Event
	for dec := json.NewDecoder(f); ; {
		var e client.Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
}

// node asks the node's verbs, as root may.
func (i *installation) node() *nodeapi.Client { return nodeapi.NewClient(i.inst.Socket("node-verbs")) }

// instances returns what the node runs of an app, which it tells apart by its release's name.
func (i *installation) instances(ctx context.Context) ([]nodeapi.Instance, error) {
	var all []nodeapi.Instance
	return all, i.node().Call(ctx, "instances", struct{}{}, &all)
}

// frozen has a process of the platform stand still while f runs, so that it does not interfere.
func (i *installation) frozen(process string, f func() error) error {
	pid, err := i.pid(process)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(f(), syscall.Kill(pid, syscall.SIGCONT))
}

// ms is a duration as the table shows it.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// times calls f so often and returns how long it took each time, in milliseconds.
func times(n int, f func() error) ([]float64, error) {
	var out []float64
	for range n {
		began := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		out = append(out, ms(time.Since(began)))
	}
	return out, nil
}

// web is the process type that has requests.
const web = bulwark.ProcessWeb

package posture

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark/internal/install"
)

func iso2() Control {
	return Control{ID: "ISO-2", Version: 1, Every: daily,
		Promise: "A breach or a greedy app stays in its own instance.",
		Tries: "Has an instance take all memory, processes, open files, disk and computing time that it can get, while the neighbour's answers are " +
			"counted and timed.",
		Probe: probeISO2}
}

// greedTime is how long each kind of greed has.
const greedTime = 3 * time.Second

func probeISO2(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	ask, err := w.visitor(app)
	if err != nil {
		return err
	}
	quiet := visit(ctx, ask, greedTime)
	r.Proven("the neighbour answers in quiet", quiet.asked > 10 && quiet.failed == 0, quiet.String())
	for _, what := range []string{"memory", "pids", "files", "disk", "cpu"} {
		ended := make(chan error, 1)
		run, stop := context.WithTimeout(ctx, time.Minute)
		var said []byte
		go func() {
			var err error
			said, err = w.Person.InModel(run, app, "exhaust", "--what", what, "--seconds", fmt.Sprint(int(greedTime.Seconds())))
			ended <- err
		}()
		loud := visit(ctx, ask, greedTime+time.Second)
		err := <-ended
		stop()
		// The median says whether the neighbour has to wait; the slowest answer of a shared machine says nothing.
		held := loud.failed == 0 && loud.asked > 10 && loud.median() < 5*quiet.median()+100*time.Millisecond
		r.Refused("disturb the neighbour by taking all "+what, held, fmt.Sprintf("quiet: %s; meanwhile: %s", quiet, loud))
		outcome := brief(string(said))
		if err != nil {
			outcome += " " + err.Error()
		}
		rep, perr := report(said, err)
		r.Proven("the instance was greedy for "+what, perr == nil && rep.Facts["amount"] != "" && rep.Facts["amount"] != "0", outcome)
	}
	return nil
}

// visits are requests to an app, from outside.
type visits struct {
	asked, failed int
	took          []time.Duration
	last          error
}

// String says how they went.
func (v visits) String() string {
	s := fmt.Sprintf("%d requests, %d failed, median %s", v.asked, v.failed, v.median().Round(100*time.Microsecond))
	if v.last != nil {
		s += ", last failure: " + v.last.Error()
	}
	return s
}

func (v visits) median() time.Duration {
	if len(v.took) == 0 {
		return 0
	}
	s := slices.Clone(v.took)
	slices.Sort(s)
	return s[len(s)/2]
}

// visit asks for some time, fifty times a second.
func visit(ctx context.Context, ask func(context.Context) error, d time.Duration) visits {
	var v visits
	end := time.Now().Add(d)
	for time.Now().Before(end) && ctx.Err() == nil {
		began := time.Now()
		err := ask(ctx)
		v.asked++
		if err != nil {
			v.failed, v.last = v.failed+1, err
		}
		v.took = append(v.took, time.Since(began))
		pause(ctx, 20*time.Millisecond)
	}
	return v
}

// visitor returns what asks the model app for its page, as a browser on this machine does.
func (w *World) visitor(app string) (func(context.Context) error, error) {
	roots, err := w.roots()
	if err != nil {
		return nil, err
	}
	to := net.JoinHostPort(publicHost(w.Installation), fmt.Sprint(w.Installation.Ports.HTTPS))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		}}}
	url := fmt.Sprintf("https://%s.%s:%d/", app, w.Installation.Domain, w.Installation.Ports.HTTPS)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		if err == nil && (res.StatusCode != http.StatusOK || string(b) != "bulwark-kit\n") {
			err = fmt.Errorf("the answer is %s", res.Status)
		}
		return err
	}, nil
}

// roots are the authority of the installation's own names.
func (w *World) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(filepath.Join(w.Installation.NodeDir(), "keys", "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the authority cannot be read")
	}
	return roots, nil
}

// publicHost is an address of this machine on which the edge listens.
func publicHost(i *install.Installation) string {
	if a := i.Listen.Public; a.IsValid() && !a.IsUnspecified() {
		return a.String()
	}
	return "127.0.0.1"
}

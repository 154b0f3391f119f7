package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func iam2() Control {
	return Control{ID: "IAM-2", Version: 1, Every: hourly,
		Promise: "Least privilege: nobody reaches what belongs to another tenant, and a stranger reaches nothing.",
		Tries: "Asks every route of the API for an app, an organisation and a project of another tenant, with the key of an owner elsewhere, and without any key; " +
			"compares the answers with those about things that do not exist.",
		Probe: probeIAM2}
}

func probeIAM2(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	known, stranger, err := w.Person.clients()
	if err != nil {
		return err
	}
	routes, err := routesOf(ctx, known)
	if err != nil {
		return err
	}
	other, err := w.otherApp(ctx, app)
	if err != nil {
		return err
	}
	const org, project = "org_00000000000000000000000000", "prj_00000000000000000000000000" // the first ones
	place := strings.NewReplacer("{app}", other, "{org}", org, "{project}", project, "{number}", "1", "{operation}", "op_00000000000000000000000000",
		"{job}", "none", "{level}", "0", "{index}", "0")
	nothing := strings.NewReplacer("{app}", "there-is-no-such-app", "{org}", "org_0000000000000000000000000g", "{project}", "prj_0000000000000000000000000g", "{number}", "1",
		"{operation}", "op_00000000000000000000000000", "{job}", "none")
	own := strings.NewReplacer("{app}", app)
	status, _, err := known.Probe(ctx, http.MethodGet, own.Replace("/v1/apps/{app}"), nil)
	r.Proven("the same key reaches its own app", err == nil && status == http.StatusOK, fmt.Sprint(status, " ", err))
	theirs := 0
	for _, rt := range routes {
		about := strings.Contains(rt.path, "{app}") || strings.Contains(rt.path, "{org}") || strings.Contains(rt.path, "{project}")
		if !rt.open {
			status, _, err := stranger.Probe(ctx, rt.method, rt.at(place), rt.body())
			if err != nil {
				return err
			}
			r.Refused(rt.method+" "+rt.path+" without a key", status == http.StatusUnauthorized || status == http.StatusTooManyRequests, fmt.Sprint(status))
		}
		if !about {
			continue
		}
		theirs++
		status, said, err := known.Probe(ctx, rt.method, rt.at(place), rt.body())
		if err != nil {
			return err
		}
		none, saidNone, err := known.Probe(ctx, rt.method, rt.at(nothing), rt.body())
		if err != nil {
			return err
		}
		// An answer that differs from that about nothing tells that it is there.
		r.Refused(rt.method+" "+rt.path+" of another tenant", status == http.StatusNotFound && none == status && said == saidNone, fmt.Sprintf("%d, of nothing %d", status, none))
	}
	r.Proven("the API has routes", theirs >= 20 && len(routes) >= 40, fmt.Sprintf("%d routes, %d about somebody's things", len(routes), theirs))
	return nil
}

// route is an endpoint as the API describes itself.
type apiRoute struct {
	method, path string
	open         bool
	bodiless     bool
}

// at is the route's address, about things that are named.
func (rt apiRoute) at(names *strings.Replacer) string {
	path := names.Replace(rt.path)
	if strings.HasSuffix(rt.path, "/sources") {
		path += "?digest=" + strings.ReplaceAll(string(bulwark.Sum(nil)), ":", "%3A")
	}
	return path
}

// body is what a change is asked with: something that is well formed, and signed by nobody.
func (rt apiRoute) body() any {
	switch {
	case rt.method == http.MethodGet, rt.bodiless:
		return nil
	case strings.HasSuffix(rt.path, "/certificates/retry"):
		return map[string]any{"host": "www.example.org"}
	case strings.HasSuffix(rt.path, "/scale"):
		return map[string]any{"formation": map[string]int{"web": 1}}
	case strings.HasSuffix(rt.path, "/posture/run"):
		return map[string]any{"only": []string{"NONE"}}
	case strings.HasSuffix(rt.path, "/sources"):
		return "a source"
	}
	return map[string]any{"envelope": []byte("{}")}
}

// routesOf reads the API's own description.
func routesOf(ctx context.Context, c *client.Client) ([]apiRoute, error) {
	status, said, err := c.Probe(ctx, http.MethodGet, "/openapi.json", nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("the API's description: %d %w", status, err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			ID   string `json:"operationId"`
			Body any    `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(said), &doc); err != nil {
		return nil, err
	}
	var out []apiRoute
	for path, methods := range doc.Paths {
		for method, op := range methods {
			out = append(out, apiRoute{strings.ToUpper(method), path, op.ID == "info" || op.ID == "login", op.Body == nil && method != "put"})
		}
	}
	slices.SortFunc(out, func(a, b apiRoute) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return out, nil
}

// clients returns one with the prober's key, and one without any.
func (p *Person) clients() (known, stranger *client.Client, err error) {
	dir := filepath.Join(p.home, ".config", "bulwark")
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, nil, err
	}
	var file struct {
		Servers []struct {
			URL, CA, Device string
		} `json:"servers"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, nil, err
	}
	for _, s := range file.Servers {
		if s.URL != p.api {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(dir, filepath.Base(s.Device))); err != nil {
			return nil, nil, err
		}
		key, err := privateKey(b)
		if err != nil {
			return nil, nil, err
		}
		if known, err = client.New(client.Config{URL: s.URL, CA: []byte(s.CA), Device: key}); err != nil {
			return nil, nil, err
		}
		stranger, err = client.New(client.Config{URL: s.URL, CA: []byte(s.CA)})
		return known, stranger, err
	}
	return nil, nil, errors.New("the prober is not signed in")
}

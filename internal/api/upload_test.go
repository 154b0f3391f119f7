package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
)

type uploadIn struct {
	App  bulwark.AppName `path:"app"`
	Name string          `query:"name" required:"true"`
}

func (in uploadIn) Resource() access.Resource { return access.App(in.App) }

// TestUpload: the decision comes before the body, the body has a bound, and errors look like all others; with HTTP/1.1
// and HTTP/2.
func TestUpload(t *testing.T) {
	api.Shape()
	a := api.New("test", slog.New(slog.DiscardHandler), func(r *http.Request) (access.Actor, error) {
		return access.Actor{Person: bulwark.PersonID(r.Header.Get("Person"))}, nil
	}, func(_ context.Context, actor access.Actor, _ access.Action, _ access.Resource) error {
		if actor.Person == "" {
			return bulwark.Failf(bulwark.KindUnauthorized, "You are not signed in.")
		}
		return nil
	})
	read := 0
	api.Upload(a, api.Op{ID: "up", Method: http.MethodPut, Path: "/{app}/up", Action: access.Deploy}, 1<<20,
		func(_ context.Context, _ access.Actor, in *uploadIn, body io.Reader) (string, error) {
			b, err := io.ReadAll(body)
			read += len(b)
			return in.Name + string(b[:min(3, len(b))]), err
		})
	for _, h2 := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(a.Handler())
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		defer srv.Close()
		for name, c := range map[string]struct {
			path, person string
			size         int
			status       int
			reads        bool
		}{
			"taken":     {"/v1/shop/up?name=x", "p_1", 1 << 20, 200, true},
			"stranger":  {"/v1/shop/up?name=x", "", 1 << 20, 401, false},
			"too large": {"/v1/shop/up?name=x", "p_1", 1<<20 + 1, 413, true},
			"no query":  {"/v1/shop/up", "p_1", 10, 422, false},
			"empty":     {"/v1/shop/up?name=x", "p_1", 0, 200, false},
		} {
			read = 0
			req, err := http.NewRequest(http.MethodPut, srv.URL+c.path, strings.NewReader(strings.Repeat("a", c.size)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Person", c.person)
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var e bulwark.Error
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || res.ProtoMajor == 2 != h2 || read > 0 != c.reads {
				t.Errorf("%s: %s over %s, %d bytes read: %s", name, res.Status, res.Proto, read, b)
			}
			if c.status != 200 && (json.Unmarshal(b, &e) != nil || e.Message == "") {
				t.Errorf("%s: the error is %s", name, b)
			}
		}
	}
}

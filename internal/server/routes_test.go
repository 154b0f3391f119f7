package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

var update = flag.Bool("update", false, "write testdata/routes.golden anew")

// The place of what the routes are about.
const (
	someOrg     = bulwark.OrgID("org_00000000000000000000000004")
	someProject = bulwark.ProjectID("prj_00000000000000000000000004")
	someApp     = bulwark.AppID("app_00000000000000000000000004")
	foreignOrg  = bulwark.OrgID("org_00000000000000000000000008")
)

// actors are everybody who may come to a route, in the order of the golden file's columns.
func actors() []struct {
	name string
	access.Actor
} {
	person := func(org bulwark.OrgID, r bulwark.Role) access.Actor {
		return access.Actor{Person: bulwark.PersonID("p_" + string(r)), Grants: []right.Grant{{Org: org, Role: r}}}
	}
	token := func(d bulwark.Deed) access.Actor {
		a := person(someOrg, bulwark.Owner)
		a.Token, a.Scopes = "tok_x", []statement.Scope{{Do: d, App: someApp}}
		return a
	}
	return []struct {
		name string
		access.Actor
	}{
		{"nobody", access.Actor{}}, {"no-role", access.Actor{Person: "p_none"}},
		{"owner", person(someOrg, bulwark.Owner)}, {"developer", person(someOrg, bulwark.Developer)}, {"viewer", person(someOrg, bulwark.Viewer)},
		{"auditor", person(someOrg, bulwark.Auditor)}, {"foreign-owner", person(foreignOrg, bulwark.Owner)}, {"operator", person(bulwark.FirstOrg, bulwark.Owner)},
		{"token:deploy", token(bulwark.DeedDeploy)}, {"token:config", token(bulwark.DeedConfig)}, {"token:run", token(bulwark.DeedRun)}, {"token:read", token(bulwark.DeedRead)},
	}
}

var errAllowed = errors.New("allowed")

// TestRoutes sends a request of everybody to every route that is registered, and holds what was decided to a golden file. The handlers
// do not run: the decision function says yes by an error of its own. A new route is refused to all until the file has it.
func TestRoutes(t *testing.T) {
	policy, err := access.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	api.Shape()
	var who access.Actor
	asked := 0
	a := api.New("test", slog.New(slog.DiscardHandler), func(*http.Request) (access.Actor, error) { return who, nil },
		func(_ context.Context, actor access.Actor, action access.Action, on access.Resource) error {
			asked++
			switch on.Kind {
			case access.KindApp:
				on.Org, on.Project, on.ID = someOrg, someProject, someApp
			case access.KindProject:
				on.Org, on.Project = someOrg, someProject
			}
			if err := policy.Decide(actor, action, on); err != nil {
				return err
			}
			return bulwark.Fail(bulwark.KindBusy, "yes", "", errAllowed)
		})
	s := &Server{}
	s.endpoints(a)

	create, err := statement.New("n", statement.KindAppCreate, someApp, statement.AppCreate{Name: "shop", Project: someProject}, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(create)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := json.Marshal(map[string]any{"payload": payload})
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"envelope":%q}`, base64.StdEncoding.EncodeToString(envelope))
	fill := strings.NewReplacer("{app}", "shop", "{org}", string(someOrg), "{project}", string(someProject), "{number}", "1", "{job}", "nightly",
		"{operation}", "op_00000000000000000000000004", "{level}", "0", "{index}", "0")

	var lines []string
	for _, r := range a.Routes() {
		row := fmt.Sprintf("%-6s %-45s %-16s", r.Method, r.Path, r.Action)
		for _, one := range actors() {
			who, asked = one.Actor, 0
			text, path, kind := body, fill.Replace(r.Path), "application/json"
			switch {
			case strings.HasSuffix(r.Path, "/certificates/retry"):
				text = `{"host":"www.example.org"}`
			case strings.HasSuffix(r.Path, "/scale"):
				text = `{"formation":{"web":1}}`
			case r.Method == http.MethodPost && strings.HasSuffix(r.Path, "/audit/witnessed"):
				text = `{"witness":"w","note":"AAAA"}`
			case strings.HasSuffix(r.Path, "/posture/run"):
				text = `{"only":["ISO"]}`
			case r.Method == http.MethodPut:
				path, kind = path+"?digest="+string(bulwark.Sum(nil)), "application/octet-stream"
			case strings.HasSuffix(r.Path, "/packages"):
				path, text = path+"?name=openssl", ""
			case strings.HasSuffix(r.Path, "/consistency"):
				path, text = path+"?from=1&to=2", ""
			case r.Method == http.MethodGet:
				text = ""
			}
			req := httptest.NewRequest(r.Method, path, strings.NewReader(text))
			req.Header.Set("Content-Type", kind)
			res := httptest.NewRecorder()
			a.Handler().ServeHTTP(res, req)
			word := map[int]string{429: "yes", 401: "401", 403: "403", 404: "404"}[res.Code]
			if asked == 0 || word == "" {
				t.Errorf("%s %s as %s: %d without a decision: %s", r.Method, r.Path, one.name, res.Code, res.Body)
			}
			row += " " + one.name + "=" + word
		}
		lines = append(lines, row)
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/routes.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("what is decided about the routes has changed; look at each line, then run with -update:\n%s", difference(string(want), got))
	}
	// What the file may never say, whoever updates it.
	for _, line := range lines {
		open := strings.Contains(line, "GET    /v1/info ") || strings.Contains(line, "POST   /v1/login ")
		if strings.Contains(line, " nobody=yes") != open {
			t.Errorf("open to nobody in particular: %s", line)
		}
		if strings.Contains(line, "{app}") || strings.Contains(line, "{org}") || strings.Contains(line, "{project}") {
			for _, foreign := range []string{"no-role", "foreign-owner", "operator"} {
				if !strings.Contains(line, " "+foreign+"=404") {
					t.Errorf("%s learns of another tenant's: %s", foreign, line)
				}
			}
		}
	}
}

func difference(want, got string) string {
	var out []string
	old := strings.Split(want, "\n")
	for _, l := range strings.Split(got, "\n") {
		if !slices.Contains(old, l) {
			out = append(out, "+ "+l)
		}
	}
	for _, l := range old {
		if !slices.Contains(strings.Split(got, "\n"), l) {
			out = append(out, "- "+l)
		}
	}
	return strings.Join(out, "\n")
}

package buildertest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
)

const goMain = `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "version 1", extra()) })
	http.ListenAndServe(":"+os.Getenv("PORT"), nil)
}
`

// TestGo builds Go apps one after the other in one app's state, for the compiler's cache is what makes them quick.
func TestGo(t *testing.T) {
	app := newApp(t)

	t.Run("example", func(t *testing.T) {
		src := example(t, "go-hello")
		out := built(t, app, buildertest.Build{Source: src})
		contains(t, out.Log(), "-----> Detected Go: there is a go.mod")
		answers(t, app, out, "/healthz", "200 OK ok")
		answers(t, app, out, "/", "Moin, world!", "GREETING=Moin")
		if out.Result.Plan.Health != "/healthz" || out.Result.Plan.Planner != "go" {
			t.Errorf("plan %+v", out.Result.Plan)
		}
		img, err := buildertest.ReadImage(app.Output, out.Result.Image)
		if err != nil {
			t.Fatal(err)
		}
		if c := img.Config.Config; c.User != "1000:1000" || c.WorkingDir != "/app" || c.Entrypoint != nil || c.Cmd != nil {
			t.Errorf("image config %+v", c)
		}
		for _, e := range img.Config.Config.Env {
			if strings.Contains(strings.ToLower(e), "proxy") || strings.HasPrefix(e, "GO") {
				t.Errorf("the image's environment has %s", e)
			}
		}
		again := built(t, app, buildertest.Build{Source: src})
		if again.Result.Image != out.Result.Image {
			t.Errorf("nothing changed, and the image did: %s, %s", out.Result.Image, again.Result.Image)
		}
	})

	// A checkout may give every file the same time, so an edit that keeps the size must be seen by its content alone; a file
	// that was removed must be gone.
	t.Run("edits", func(t *testing.T) {
		src := files(t, map[string]string{"go.mod": "module example.com/edits\n\ngo 1.25\n", "main.go": goMain,
			"extra.go": "package main\n\nfunc extra() string { return \" with extra\" }\n", "static/page.html": "page one"})
		same := time.Unix(1_700_000_000, 0)
		times := func() {
			filepath.WalkDir(src, func(file string, _ os.DirEntry, _ error) error { return os.Chtimes(file, same, same) })
		}
		times()
		answers(t, app, built(t, app, buildertest.Build{Source: src}), "/", "version 1 with extra")
		write(t, src+"/main.go", strings.Replace(goMain, "version 1", "version 2", 1))
		write(t, src+"/static/page.html", "page two")
		times()
		out := built(t, app, buildertest.Build{Source: src})
		answers(t, app, out, "/", "version 2 with extra")
		if text := imageFile(t, app, out, "app/static/page.html"); text != "page two" {
			t.Errorf("static file %q", text)
		}
		os.Remove(src + "/extra.go")
		failed(t, app, buildertest.Build{Source: src}, bulwark.KindFailed, `The build step "go build ." failed with exit code 1.`)
	})

	t.Run("module from the proxy and several programs", func(t *testing.T) {
		src := files(t, map[string]string{
			"go.mod":             "module example.com/several\n\ngo 1.25\n\nrequire github.com/google/uuid v1.6.0\n",
			"go.sum":             "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
			"cmd/server/main.go": strings.Replace(strings.Replace(goMain, `"net/http"`, "\"net/http\"\n\t\"github.com/google/uuid\"", 1), "extra()", "len(uuid.NewString())", 1),
			"cmd/mailer/main.go": "package main\n\nfunc main() {}\n",
			"tool/gen.go":        "//go:build ignore\n\npackage main\n\nfunc main() {}\n",
		})
		out := built(t, app, buildertest.Build{Source: src})
		procs := out.Result.Plan.Processes
		if len(procs) != 2 || procs["web"].Argv[0] != "/app/bin/server" || procs["mailer"].Argv[0] != "/app/bin/mailer" {
			t.Fatalf("processes %v", procs)
		}
		answers(t, app, out, "/", "version 136")
	})

	t.Run("a changed go.sum is refused", func(t *testing.T) {
		src := files(t, map[string]string{
			"go.mod":  "module example.com/sum\n\ngo 1.25\n\nrequire github.com/google/uuid v1.5.0\n",
			"go.sum":  "github.com/google/uuid v1.5.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\ngithub.com/google/uuid v1.5.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
			"main.go": "package main\n\nimport \"github.com/google/uuid\"\n\nfunc main() { uuid.NewString() }\n",
		})
		out := failed(t, app, buildertest.Build{Source: src}, bulwark.KindFailed, "exit code 1")
		contains(t, out.Log(), "SECURITY ERROR")
	})

	t.Run("a compile error names file and line", func(t *testing.T) {
		src := files(t, map[string]string{"go.mod": "module example.com/broken\n\ngo 1.25\n", "main.go": "package main\n\nfunc main() { missing() }\n"})
		out := failed(t, app, buildertest.Build{Source: src}, bulwark.KindFailed, "exit code 1")
		contains(t, out.Log(), "./main.go:3:15: undefined: missing")
	})
}

// imageFile returns a file of a build's image.
func imageFile(t testing.TB, app *buildertest.App, out *buildertest.Outcome, name string) string {
	t.Helper()
	img, err := buildertest.ReadImage(app.Output, out.Result.Image)
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	if err := img.Unpack(t.Context(), dir, 1); err != nil { // all but Debian
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

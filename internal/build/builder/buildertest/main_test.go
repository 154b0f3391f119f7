package buildertest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
)

// shared is the host of all builds of this test run: it compiles the programs once.
var shared *buildertest.Host

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "buildertest-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			panic(err)
		}
		if shared, err = buildertest.NewHost(context.Background(), dir); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared.Dir, "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newApp(t testing.TB) *buildertest.App {
	t.Helper()
	a, err := shared.NewApp(tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// example copies one of the repository's examples.
func example(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("../../../../examples", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files makes a source tree.
func files(t testing.TB, list map[string]string) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "src")
	for name, text := range list {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, app *buildertest.App, b buildertest.Build) *buildertest.Outcome {
	t.Helper()
	out, err := app.Run(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// built runs a build that has to succeed.
func built(t testing.TB, app *buildertest.App, b buildertest.Build) *buildertest.Outcome {
	t.Helper()
	out := run(t, app, b)
	if out.Code != 0 || out.Result == nil || out.Error != nil {
		t.Fatalf("exit code %d, error %v\n%s\n%s", out.Code, out.Error, out.Log(), out.Stderr)
	}
	t.Logf("%v in all, %v the app's own", out.Total.Round(time.Millisecond), time.Duration(out.Result.Own))
	return out
}

// failed runs a build that has to fail by the app's fault, with a message that holds want.
func failed(t testing.TB, app *buildertest.App, b buildertest.Build, kind bulwark.Kind, want string) *buildertest.Outcome {
	t.Helper()
	out := run(t, app, b)
	if out.Code != 1 || out.Result != nil || out.Error == nil {
		t.Fatalf("exit code %d, result %v, error %v\n%s\n%s", out.Code, out.Result, out.Error, out.Log(), out.Stderr)
	}
	if out.Error.Kind != kind || !strings.Contains(out.Error.Message+" "+out.Error.Hint, want) {
		t.Fatalf("error %s %q, want %s with %q\n%s", out.Error.Kind, out.Error, kind, want, out.Log())
	}
	return out
}

// answers starts the web process of a build's image and checks what it says.
func answers(t testing.TB, app *buildertest.App, out *buildertest.Outcome, path, want string, env ...string) {
	t.Helper()
	got, err := app.Serve(t.Context(), out.Result, path, env...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, want) {
		t.Fatalf("GET %s: %q, want %q", path, got, want)
	}
}

func contains(t testing.TB, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Fatalf("%q is not in:\n%s", want, text)
	}
}

func containsNot(t testing.TB, text, unwanted string) {
	t.Helper()
	if strings.Contains(text, unwanted) {
		t.Fatalf("%q is in:\n%.4000s", unwanted, text)
	}
}

package lint

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each planted bypass of a protection turns the build red: a rule that was loosened, or a linter that does not look there any more,
// is noticed here.
func TestPlantedBypasses(t *testing.T) {
	bin := os.Getenv("CHECK_BIN")
	if bin == "" {
		t.Fatal("CHECK_BIN is not set; `make test` sets it, after it has built the linter")
	}
	const file = "testdata/bypass/bypass.go"
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "golangci-lint"), "run", "--concurrency", "2", "--output.json.path", "stdout", "--output.text.path", os.DevNull, "--show-stats=false",
		"--max-issues-per-linter", "0", "--max-same-issues", "0", "./testdata/bypass")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err == nil {
		t.Fatal("the linter finds nothing wrong")
	}
	var found struct {
		Issues []struct {
			FromLinter, Text string
			Pos              struct{ Line int }
		}
	}
	if err := json.NewDecoder(&stdout).Decode(&found); err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	want := regexp.MustCompile(`// want "([^"]+)"`)
	wanted := 0
	for i, line := range strings.Split(string(source), "\n") {
		m := want.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		wanted++
		seen := false
		for _, is := range found.Issues {
			seen = seen || is.Pos.Line == i+1 && strings.Contains(is.FromLinter+": "+is.Text, m[1])
		}
		if !seen {
			t.Errorf("%s:%d: nothing found of %q: %s", file, i+1, m[1], strings.TrimSpace(line))
		}
	}
	if wanted < 10 {
		t.Errorf("%d bypasses are planted", wanted)
	}
	if t.Failed() {
		for _, is := range found.Issues {
			t.Logf("%d: %s: %s", is.Pos.Line, is.FromLinter, is.Text)
		}
	}
}

// Every library that is used on purpose is on the list with what for, why, and who keeps it.
func TestListOfLibraries(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.Contains(line, "// indirect") || !strings.Contains(f[0], ".") || !strings.HasPrefix(f[1], "v") {
			continue
		}
		n++
		if !strings.Contains(string(list), f[0]) {
			t.Errorf("docs/dependencies.md does not say what %s is for", f[0])
		}
	}
	if n < 20 {
		t.Errorf("%d libraries are in go.mod", n)
	}
}

package bulwark_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file is ARCHITECTURE.md's page on the layout as a test: who may import whom, and why not. It reads the source and
// asks no tool, so that it sees every file, whatever it is built for.

const module = "github.com/bulwark-paas/bulwark"

// A rule says what packages may or must not import. Names are relative to the module; "x/..." is x and all below it; a
// name with a dot in its first part is somebody else's; "." is the root package, the nouns. What an allowed or
// forbidden package itself imports counts too, except where direct says otherwise.
type rule struct {
	who    []string
	except []string // of who
	// only, if set, is all of ours that they may import. never is what they must not, also where only would allow it.
	only, never []string
	direct      bool // look at their own imports only, not at what those import
	why         string
}

// nouns is what every package may speak in.
var nouns = []string{"."}

var rules = []rule{
	{
		who: []string{"."}, only: []string{}, never: []string{thirdParty},
		why: "the nouns are what all processes have in common, down to the one in an app's own container; what they import, all do",
	},
	{
		who: []string{"internal/edge"}, only: []string{".", "internal/fdpass", "internal/sandbox", "internal/edge/waf", "internal/astable"},
		why: "whoever owns the edge sees traffic and nothing else: no store, no keys, no driver may be in its memory",
	},
	{
		who: []string{"internal/edge/waf", "internal/astable"}, only: nouns,
		why: "they are guests in the edge: what one reads strangers wrote, and the other is asked about each request",
	},
	{
		who: []string{"internal/dial"}, only: []string{".", "internal/fdpass", "internal/sandbox"},
		why: "dial may enter every instance's network, so it is the smallest: a socket, a descriptor, nothing to parse",
	},
	{
		who: []string{"internal/egress", "internal/resolver"}, only: []string{".", "internal/fdpass", "internal/sandbox", "internal/netpolicy"},
		why: "what builders and apps speak to decides by addresses alone, and knows nothing that is worth stealing",
	},
	{
		who: []string{"internal/certs"}, only: []string{".", "internal/certs/certsapi", "internal/sandbox"},
		why: "it has the keys of every claimed name and speaks to strangers: it knows nothing else of the platform's",
	},
	{
		who:  []string{"cmd/bulwark-init", "cmd/bulwark-static", "cmd/bulwark-hook", "cmd/bulwark-pack", "cmd/bulwark-builder", "cmd/bulwark-cell"},
		only: []string{".", "internal/source/gitssh/hook", "internal/image/pack", "internal/build/builder", "internal/fdpass", "internal/sandbox"},
		why:  "each runs beside hostile input with no right but its own; it brings one package, and that one is bound below",
	},
	{
		who: []string{"internal/build/builder", "internal/image/pack", "internal/source/gitssh/hook"}, only: nouns,
		why: "they read what a stranger wrote; a hole in a parser must find nothing of the platform's around it",
	},
	{
		who: []string{"cmd/bulwark-unpack", "internal/source/tree"}, only: []string{".", "internal/source/tree", "internal/statement"},
		why: "it unpacks a stranger's archive, and says which tree it is in the words of the statement that a person signed for it",
	},
	{
		who: []string{"cmd/bulwark-sbom", "internal/sbom/catalog"}, only: []string{".", "internal/sbom/catalog", "internal/sbom/inventory", "internal/sandbox"},
		why: "it looks into a stranger's files; a hole in a parser must find nothing of the platform's around it but the words that it answers in",
	},
	{
		who: []string{"cmd/bulwark-kit", "internal/posture/kit"}, only: []string{"internal/posture/kit"},
		why: "it plays the attacker: what it knows it must have found, and what runs in an instance brings nothing of the platform's with it",
	},
	{
		who: []string{"internal/sbom", "internal/sbom/inventory"}, only: []string{".", "internal/sbom/inventory"}, never: []string{"internal/sbom/catalog"},
		why: "they are in the node, and read what bulwark-sbom says; the parsers of a stranger's files are not",
	},
	{
		who: []string{"internal/node/..."},
		never: []string{"internal/sbom/catalog", "internal/server/...", "internal/api", "internal/access", "internal/audit", "internal/job", "internal/app", "internal/source",
			"internal/source/gitssh", "internal/build", "internal/release", "internal/instance", "internal/route", "internal/registry", "internal/tenant", "client", "internal/supervise"},
		only: []string{".", "internal/node/...", "internal/statement", "internal/seal", "internal/enrol", "internal/instance/driver", "internal/instance/containerd",
			"internal/dial", "internal/egress", "internal/resolver", "internal/netpolicy", "internal/build/buildspec", "internal/db", "internal/process",
			"internal/right", "internal/source/pushnonce", "internal/source/tree", "internal/sbom", "internal/sbom/inventory", "internal/fdpass", "internal/sandbox", "internal/atomicfile", "internal/terminal",
			"internal/certs/certsapi", "internal/certchain", "internal/astable"},
		why: "the node believes statements, not the server: what the control plane decides must not be code that the node runs",
	},
	{
		who: append([]string{"internal/server/..."}, features...), except: []string{"internal/instance/containerd", "internal/instance/driver", "internal/build/builder/..."},
		never: []string{"internal/node", "internal/node/ledger/...", "internal/node/images/...", "internal/node/network/...", "internal/node/files/...",
			"internal/seal", "internal/instance/containerd", "internal/instance/driver", "github.com/containerd/...", "internal/dial", "internal/edge", "internal/egress", "internal/resolver", "internal/certs"},
		why: "the server is where a stranger's request ends up: it asks the node by typed verbs (node/nodeapi) and the edge by its table " +
			"(edge/edgecontrol), opens no secret, and has no driver and no ledger of its own to ask instead",
	},
	{
		who: []string{"internal/engine"}, only: []string{},
		why: "it is in the engine, which is root: it does what containerd does, and knows nothing of the platform",
	},
	{
		who: []string{"internal/posture/kit", "cmd/bulwark-kit"}, only: []string{"internal/posture/kit"},
		why: "it runs where an attacker would; what it knows of the platform must not be what it was built with",
	},
	{
		who: []string{"internal/posture"},
		only: []string{".", "internal/posture/...", "internal/install", "internal/node/nodeapi", "internal/audit", "internal/audit/inspect", "internal/access", "internal/db", "internal/netpolicy", "internal/statement",
			"internal/right", "internal/atomicfile", "internal/process", "client"},
		why: "a probe attacks what runs; what it imported of the platform's own code would say of itself that it holds",
	},
	{
		who: []string{"internal/right"}, only: []string{".", "internal/statement"},
		why: "the node decides by it, so it knows nothing of the server's",
	},
	{
		who: []string{"client"}, only: []string{".", "internal/statement", "internal/right"},
		why: "the public client is for other people's programs: what it imports, they get",
	},
	{
		who: []string{"internal/db", "internal/seal", "internal/audit", "internal/access", "internal/api"}, only: []string{".", "internal/db", "internal/access", "internal/right", "internal/statement"},
		why: "the kernel knows no feature, so that a feature can be added, and taken away, without touching it",
	},
	{
		who: []string{"internal/job"}, only: []string{".", "internal/db", "client", "internal/statement", "internal/right"},
		why: "the kernel knows no feature; a job's log lines are the client's type, because they go to people as they are, over HTTP and over git",
	},
	{
		who: []string{"internal/statement"}, only: nouns,
		why: "what people sign is verified by the node, the server and every client with the same code, and by nothing else's",
	},
	{
		who: []string{"internal/..."}, never: []string{"cmd/..."}, direct: true,
		why: "main wires packages; no package wires main",
	},
	{
		who: []string{"..."}, except: []string{"internal/process", "internal/build/builder/..."}, never: []string{"os/exec"}, direct: true,
		why: "programs are started by internal/process alone: absolute path, arguments as a list, an environment that was written for them " +
			"(a builder's planner imports nothing of ours, and starts buildkitd itself, inside its own container)",
	},
	{
		who: []string{"..."}, never: []string{"github.com/stretchr/testify/...", "github.com/golang/mock/...", "go.uber.org/mock/..."}, direct: true,
		why: "tests speak plain Go; what a test needs of a driver is an honest one in memory",
	},
}

// features are the folders of the pipeline, each with its rules, SQL, endpoints and jobs.
var features = []string{"internal/app", "internal/source/...", "internal/build", "internal/release", "internal/instance", "internal/route", "internal/registry", "internal/tenant"}

// thirdParty stands for every package that is neither ours nor the standard library's.
const thirdParty = "third party"

func TestImports(t *testing.T) {
	tree := readTree(t)
	for _, broken := range tree.breaches(rules) {
		t.Error(broken)
	}
	// A name in a rule that matches nothing protects nothing: it was renamed, or misspelt.
	for _, r := range rules {
		for _, name := range slices.Concat(r.who, r.except, r.only) {
			if !slices.ContainsFunc(tree.names(), func(p string) bool { return matches(name, p) }) {
				t.Errorf("there is no package %s, which a rule names", name)
			}
		}
	}
}

// Each rule turns red when it is broken: for every rule a made-up import breaks it.
func TestImportRulesBite(t *testing.T) {
	whole := readTree(t)
	for _, r := range rules {
		who := whole.matching(r.who, r.except)[0]
		stray := "github.com/example/stray"
		if r.only != nil {
			stray = module + "/internal/backup" // no package of any list
		}
		for _, name := range r.never {
			if name != thirdParty {
				stray = full(strings.TrimSuffix(name, "/..."))
			}
		}
		tree := whole.with(who, stray)
		if len(tree.breaches([]rule{r})) == 0 {
			t.Errorf("%s may import %s, although: %s", who, stray, r.why)
		}
		if r.direct {
			continue
		}
		// Also behind another package that is allowed.
		tree = whole.with(who, module+"/internal/backup").with("internal/backup", stray)
		if r.only == nil && len(tree.breaches([]rule{r})) == 0 {
			t.Errorf("%s may import %s through another package, although: %s", who, stray, r.why)
		}
	}
}

// Threads of these processes enter other namespaces and are thrown away then. The main thread cannot be: it stays where it was left, and
// /proc/net, /proc/self/net and /proc/self/ns speak of it.
func TestNamespacesOfThreads(t *testing.T) {
	for _, dir := range []string{"internal/node", "internal/posture", "internal/dial"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "internal/posture/kit/") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, bad := range []string{"\"/proc/net", "\"/proc/self/net", "\"/proc/self/ns"} {
				if strings.Contains(string(b), bad) {
					t.Errorf("%s reads %s, which is the main thread's; /proc/thread-self/ is the caller's", path, bad[1:])
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// maxLines is where a file is no longer one noun.
const maxLines = 600

func TestLayout(t *testing.T) {
	tree := readTree(t)
	for _, name := range tree.names() {
		for _, broken := range tree.pkgs[name].breaches(name) {
			t.Error(broken)
		}
	}
}

// Each of these is refused.
func TestLayoutRulesBite(t *testing.T) {
	const doc = "// Package x is a thing.\npackage x\n"
	for name, c := range map[string]struct{ dir, file, src string }{
		"no package comment":  {"internal/x", "x.go", "package x\n"},
		"a comment of sorts":  {"internal/x", "x.go", "// This is it.\npackage x\n"},
		"an init":             {"internal/x", "x.go", doc + "func init() {}\n"},
		"a long file":         {"internal/x", "x.go", doc + strings.Repeat("\n", maxLines)},
		"a long test":         {"internal/x", "x_test.go", doc + strings.Repeat("\n", maxLines)},
		"a package of things": {"internal/util", "util.go", strings.ReplaceAll(doc, " x", " util")},
		"the same, below":     {"internal/helpers/x", "x.go", doc},
	} {
		p := &pkg{}
		if err := p.add(c.file, []byte(c.src)); err != nil {
			t.Fatal(err)
		}
		if len(p.breaches(c.dir)) == 0 {
			t.Errorf("%s was taken", name)
		}
	}
	p := &pkg{}
	if err := p.add("x.go", []byte(doc)); err != nil || len(p.breaches("internal/x")) > 0 {
		t.Error("a proper package was refused", err, p.breaches("internal/x"))
	}
}

// pkg is what is known of a package.
type pkg struct {
	name      string
	imports   []string // of its files but the tests'
	commented bool
	code      bool // has files that are no tests
	wrong     []string
}

// add reads a file.
func (p *pkg) add(file string, src []byte) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if n := strings.Count(string(src), "\n"); n > maxLines {
		p.wrong = append(p.wrong, file+" has "+strconv.Itoa(n)+" lines, more than "+strconv.Itoa(maxLines)+": it holds more than one noun")
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			p.wrong = append(p.wrong, file+" has a func init: nothing happens because of an import; main wires")
		}
	}
	if strings.HasSuffix(file, "_test.go") {
		return nil
	}
	p.code, p.name = true, f.Name.Name
	text := f.Doc.Text()
	p.commented = p.commented || strings.HasPrefix(text, "Package "+p.name+" ") || p.name == "main" && strings.HasPrefix(text, "Command ")
	for _, i := range f.Imports {
		s, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		p.imports = append(p.imports, s)
	}
	return nil
}

// breaches says what is wrong with the package itself.
func (p *pkg) breaches(dir string) []string {
	wrong := slices.Clone(p.wrong)
	if p.code && !p.commented {
		wrong = append(wrong, dir+" has no package comment: it says what the package promises and who owns what if it is owned")
	}
	for part := range strings.SplitSeq(dir, "/") {
		switch strings.TrimSuffix(part, "s") {
		case "util", "utilitie", "common", "type", "helper", "misc", "model", "service", "manager":
			wrong = append(wrong, dir+" is named "+part+", which says nothing of what is in it")
		}
	}
	return wrong
}

// tree is all packages of the module, by their name relative to it.
type tree struct{ pkgs map[string]*pkg }

func readTree(t *testing.T) *tree {
	t.Helper()
	out := &tree{pkgs: map[string]*pkg{}}
	root := os.DirFS(".") // the folder of this file, which is the module's
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		switch base := path.Base(file); {
		case err != nil:
			return err
		case d.IsDir():
			_, other := fs.Stat(root, path.Join(file, "go.mod")) // examples and tools are modules of their own
			if file != "." && (base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || other == nil) {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(file, ".go"):
			return nil
		}
		src, err := fs.ReadFile(root, file)
		if err != nil {
			return err
		}
		dir := path.Dir(file)
		if out.pkgs[dir] == nil {
			out.pkgs[dir] = &pkg{}
		}
		return out.pkgs[dir].add(file, src)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// with returns a copy in which a package imports more.
func (t *tree) with(who string, imports ...string) *tree {
	out := &tree{pkgs: maps.Clone(t.pkgs)}
	p := &pkg{imports: imports}
	if old := t.pkgs[who]; old != nil {
		p.imports = slices.Concat(old.imports, imports)
	}
	out.pkgs[who] = p
	return out
}

func (t *tree) names() []string { return slices.Sorted(maps.Keys(t.pkgs)) }

func (t *tree) matching(who, except []string) []string {
	return slices.DeleteFunc(t.names(), func(p string) bool { return !anyMatches(who, p) || anyMatches(except, p) })
}

// breaches returns a sentence for each import that a rule forbids.
func (t *tree) breaches(rules []rule) []string {
	var out []string
	for _, r := range rules {
		for _, who := range t.matching(r.who, r.except) {
			for _, imported := range slices.Sorted(maps.Keys(t.reach(who, r.direct))) {
				if r.forbids(who, imported) {
					chain := t.reach(who, r.direct)[imported]
					out = append(out, strings.Join(chain, " imports ")+"\n  "+r.why)
				}
			}
		}
	}
	return out
}

func (r rule) forbids(who, imported string) bool {
	if anyMatches(r.never, imported) || slices.Contains(r.never, thirdParty) && strings.Contains(strings.Split(imported, "/")[0], ".") && imported != "." {
		return true
	}
	return r.only != nil && ours(imported) && imported != who && !anyMatches(r.only, imported)
}

// reach returns what a package imports, and what that imports, each with the way to it.
func (t *tree) reach(who string, direct bool) map[string][]string {
	found := map[string][]string{}
	var walk func(from string, way []string)
	walk = func(from string, way []string) {
		p := t.pkgs[from]
		if p == nil || direct && from != who {
			return
		}
		for _, i := range p.imports {
			name := short(i)
			if _, seen := found[name]; !seen {
				found[name] = append(slices.Clone(way), name)
				walk(name, found[name])
			}
		}
	}
	walk(who, []string{who})
	return found
}

// short names a package of ours relative to the module; "." is its root. Others keep their name.
func short(path string) string {
	if path == module {
		return "."
	}
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return rest
	}
	return path
}

// full is the opposite of short.
func full(name string) string {
	switch {
	case name == ".":
		return module
	case ours(name):
		return module + "/" + name
	}
	return name
}

// ours reports whether a short name is a package of this module.
func ours(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return name == "." || slices.Contains([]string{"internal", "cmd", "client", "tools", "e2e", "web"}, first)
}

func anyMatches(names []string, p string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return matches(n, p) })
}

func matches(name, p string) bool {
	if name == "..." {
		return true
	}
	if up, ok := strings.CutSuffix(name, "/..."); ok {
		return p == up || strings.HasPrefix(p, up+"/")
	}
	return name == p
}

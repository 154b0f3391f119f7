package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var sqlVerb = regexp.MustCompile("(?i)^[\"`]\\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE)\\s")

// Values go into SQL as parameters: no statement is put together from text, but for lists of placeholders and clauses that are
// literals of ours. The linter looks for that only where it sees a stranger's input.
func TestNoSQLFromText(t *testing.T) {
	found := map[string]int{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, line := range composedSQL(t, path) {
			found[path]++
			// Clauses that are chosen from literals: looked at one by one.
			if known[filepath.ToSlash(strings.TrimPrefix(path, "../../"))] == 0 {
				t.Errorf("%s:%d: SQL is put together from text; give values as parameters", path, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, n := range known {
		if found["../../"+path] != n {
			t.Errorf("%s has %d places where SQL is put together, not %d; look at them", path, found["../../"+path], n)
		}
	}
}

// known are the files in which clauses are put together from literals of ours, and in how many places; the last is planted.
var known = map[string]int{
	"internal/app/app.go":           3,
	"internal/app/grace.go":         5,
	"internal/instance/cronrows.go": 2,
	"internal/instance/rows.go":     2,

	"tools/lint/testdata/bypass/bypass.go": 1,
}

func composedSQL(t *testing.T, path string) (lines []int) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch e := n.(type) {
		case *ast.BinaryExpr:
			if e.Op != token.ADD {
				return true
			}
			if literal, whole := parts(e); sqlVerb.MatchString(literal) && !whole {
				lines = append(lines, set.Position(e.Pos()).Line)
			}
			return false
		case *ast.CallExpr:
			fun, ok := e.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "Sprintf" || len(e.Args) < 2 {
				return true
			}
			if lit, ok := e.Args[0].(*ast.BasicLit); ok && sqlVerb.MatchString(lit.Value) {
				lines = append(lines, set.Position(e.Pos()).Line)
			}
		}
		return true
	})
	return lines
}

// parts returns the first literal of a sum, and whether all of it is literals.
func parts(e ast.Expr) (first string, whole bool) {
	switch v := e.(type) {
	case *ast.BasicLit:
		return v.Value, true
	case *ast.BinaryExpr:
		l, lw := parts(v.X)
		_, rw := parts(v.Y)
		return l, lw && rw
	}
	return "", false
}

package netpolicy

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/zones.md anew")

// The table that people read is the one that the rules are made from.
func TestMatrixInTheDocs(t *testing.T) {
	const path = "../../docs/zones.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- made from internal/netpolicy/zones.go: go test ./internal/netpolicy -update -->\n", "<!-- end -->\n"
	head, rest, ok := strings.Cut(string(b), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	if table == Matrix() {
		return
	}
	if !*update {
		t.Fatalf("%s is not the table of the code; look at it, then run with -update:\n%s", path, Matrix())
	}
	if err := os.WriteFile(path, []byte(head+begin+Matrix()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What must never be in the table, whatever is added to it.
func TestFlowsThatMustNotBe(t *testing.T) {
	for _, f := range Flows() {
		switch {
		case f.How == "" || !slices.Contains(Zones(), f.From) || !slices.Contains(Zones(), f.To):
			t.Errorf("%+v is not whole", f)
		case f.To == Run && (f.From != Edge || f.Proto != Handed):
			t.Errorf("a way into an instance beside the edge's: %+v", f)
		case f.To == Build:
			t.Errorf("a way into a builder: %+v", f)
		case f.From == Build && (f.To != Egress || f.Proto != Handed):
			t.Errorf("a way out of a builder beside the proxy: %+v", f)
		case (f.From == Run || f.From == Build || f.From == Edge) && f.To == Control:
			t.Errorf("a way to the control plane from where strangers' code or requests are: %+v", f)
		case f.From == f.To:
			t.Errorf("a zone in itself: %+v", f)
		}
	}
}

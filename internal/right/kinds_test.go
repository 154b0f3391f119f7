package right_test

import (
	"testing"

	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Every kind of statement has a rule, but for the one by which somebody becomes a person; and every rule is about a kind that is known.
func TestKindsHaveRules(t *testing.T) {
	rules := right.Rules()
	known := map[statement.Kind]bool{}
	for _, k := range statement.Kinds() {
		known[k] = true
		if _, ok := rules[k]; !ok && k != statement.KindEnroll {
			t.Errorf("there is no rule for %s", k)
		}
	}
	for k := range rules {
		if !known[k] {
			t.Errorf("%s is missing in statement.Kinds", k)
		}
	}
}

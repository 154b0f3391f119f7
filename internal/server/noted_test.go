package server

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The entry about people and keys says whom or what it is about, and never what anybody is called.
func TestMatter(t *testing.T) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := statement.NewKey(public)
	person, token, on := bulwark.NewPersonID(), bulwark.NewTokenID(), bulwark.NewAppID()
	until := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	at := statement.Place{Org: bulwark.FirstOrg}
	within := statement.Place{Org: bulwark.FirstOrg, Project: bulwark.FirstProject}
	for name, c := range map[string]struct {
		kind statement.Kind
		body any
		on   string
		says []string
	}{
		"an invitation": {statement.KindMemberInvite, statement.MemberInvite{Place: at, Role: bulwark.Viewer, Name: "ana@example.org", Key: key.PKIX(), Until: until},
			"org:" + string(bulwark.FirstOrg), []string{"viewer", key.Fingerprint, "2027-01-02"}},
		"an invitation withdrawn": {statement.KindMemberUninvite, statement.MemberUninvite{Place: at, Invitation: key.Fingerprint},
			"org:" + string(bulwark.FirstOrg), []string{key.Fingerprint}},
		"a role": {statement.KindMemberSet, statement.MemberSet{Place: within, Person: person, Role: bulwark.Owner},
			"project:" + string(bulwark.FirstProject), []string{string(person) + " is owner"}},
		"a role taken away": {statement.KindMemberRemove, statement.MemberRemove{Place: at, Person: person}, "org:" + string(bulwark.FirstOrg), []string{string(person)}},
		"a token": {statement.KindTokenCreate, statement.TokenCreate{Token: token, Name: "ana's laptop", Scopes: []statement.Scope{{Do: "deploy", App: on}}, Until: until},
			"platform", []string{string(token), "deploy:" + string(on), "2027-01-02"}},
		"a token's end":         {statement.KindTokenRevoke, statement.TokenRevoke{Token: token}, "platform", []string{string(token)}},
		"a device":              {statement.KindKeyAdd, statement.KeyAdd{Device: key.PKIX()}, "platform", []string{key.Fingerprint}},
		"a key taken away":      {statement.KindKeyRemove, statement.KeyRemove{Fingerprint: "SHA256:x"}, "platform", []string{"SHA256:x"}},
		"an enrolment":          {statement.KindEnroll, statement.Enroll{Name: "Ana", Invitation: "SHA256:y"}, "platform", []string{"SHA256:y"}},
		"what reads as nothing": {statement.KindMemberSet, "text", "platform", nil},
	} {
		b, err := json.Marshal(c.body)
		if err != nil {
			t.Fatal(err)
		}
		about, detail := matter(&nodeapi.Receipt{Kind: c.kind, Body: b})
		if about.String() != c.on {
			t.Errorf("%s is about %s", name, about)
		}
		for _, want := range c.says {
			if !strings.Contains(detail, want) {
				t.Errorf("%s: %q does not say %q", name, detail, want)
			}
		}
		if strings.Contains(detail, "ana@") || strings.Contains(detail, "laptop") || strings.Contains(detail, "Ana") {
			t.Errorf("%s: %q has a name", name, detail)
		}
	}
}

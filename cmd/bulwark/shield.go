package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// shieldFlags are what the settings of a shield may be narrowed to.
type shieldFlags struct{ per, path, arg string }

func (c *cli) shieldCommand() *cobra.Command {
	var f shieldFlags
	cmd := command("shield [APP] [SETTING VALUE]...", "Show and change what protects an app from the internet",
		"  $ bulwark shield shop\n  $ bulwark shield shop waf block\n  $ bulwark shield shop limit 50r/s --per client\n  $ bulwark shield shop deny 198.51.100.0/24",
		between(0, 1<<10, ""), func(ctx context.Context, args []string) error { return c.shield(ctx, args, f) })
	cmd.Long = `Shows what protects an app at the edge and what was refused in the last hour, with examples. With settings, changes it; what is not
named stays. The settings:

  waf block|detect|off     refuse what looks like an attack, note it (the default), or do not look
  limit RATE|off           let so many requests through, such as 50r/s, 300r/m or 1000r/h; --per client (the default)
                           or --per app, --path /login for what is at a path and below it
  tls modern|intermediate  TLS 1.3 alone, or TLS 1.2 too (the default)
  backend h2c|http1        speak HTTP/2 to the app's processes, as gRPC wants it, or HTTP/1.1 (the default)
  client-ca FILE|off       let in who shows a certificate of these authorities (PEM), or everybody
  hsts on|preload|off      have browsers keep to HTTPS for two years (the default), offer that for their lists, or have them forget it
  loosen|keep HEADER       let the app make a security header looser than ours, or stricter alone (the default)
  csp POLICY|report|off    give pages this content security policy, have browsers tell what one has to allow, or neither (the default)
  challenge on|off         have browsers compute for a moment before they are let in; programs are refused
  allow NETWORK            neither deny nor a limit is about this network
  deny NETWORK|all         refuse this network, or everybody who is not allowed
  forget NETWORK|all       take a network from both lists
  learn show|accept        show which exclusions the app's own traffic would need, as the firewall saw it in detect, or take those that look ordinary
  exclude RULE             have a rule of the firewall leave requests alone; --path and --arg narrow that down
  include RULE             take that back

Every app has, without anything chosen: the firewall in detect, and a limit of 200 requests a second for each client, of which 2000 may
come at once.`
	cmd.Flags().StringVar(&f.per, "per", string(bulwark.PerClient), "whose requests a limit counts: client or app")
	cmd.Flags().StringVar(&f.path, "path", "", "path to which a limit or an exclusion is narrowed")
	cmd.Flags().StringVar(&f.arg, "arg", "", "argument to which an exclusion is narrowed")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && args[len(args)-1] == "waf" {
			return []string{"block", "detect", "off"}, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) == 0 {
			names, d := c.completeApp(cmd, args, typed)
			return append(names, shieldSettings()...), d
		}
		return shieldSettings(), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.AddCommand(c.patchCommand())
	return c.forApp(cmd)
}

func shieldSettings() []string {
	return []string{"waf", "tls", "backend", "client-ca", "hsts", "loosen", "keep", "csp", "trace", "challenge", "limit", "allow", "deny", "forget", "learn", "exclude", "include"}
}

func (c *cli) shield(ctx context.Context, args []string, f shieldFlags) error {
	if len(args) > 0 && !slices.Contains(shieldSettings(), args[0]) {
		if c.app != "" {
			return misuse(fmt.Sprintf("There is no setting %s.", quote(args[0])), "See bulwark shield --help.")
		}
		c.app, args = args[0], args[1:]
	}
	if len(args) == 0 {
		return c.showShield(ctx)
	}
	if args[0] == "learn" {
		return c.learn(ctx, args[1:])
	}
	change, err := shieldChange(args, f)
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.setting(ctx, s, name, app.ID, statement.KindShieldSet, statement.Shield{Change: change}, fmt.Sprintf("Shield of %s: %s.", name, change))
}

// shieldChange reads settings with their values.
func shieldChange(args []string, f shieldFlags) (c bulwark.ShieldChange, err error) {
	for len(args) > 0 {
		word := args[0]
		if len(args) == 1 {
			return c, bulwark.Invalid(fmt.Sprintf("The setting %s needs a value.", quote(word)), "See bulwark shield --help.")
		}
		if err = shieldSetting(&c, word, args[1], f); err != nil {
			return c, err
		}
		args = args[2:]
	}
	_, err = bulwark.Shield{}.With(bulwark.ShieldChange{WAF: bulwark.WAFDetect, Limit: c.Limit, Allow: c.Allow, Deny: c.Deny, Exclude: c.Exclude})
	return c, err // what can be known to be wrong here is said here
}

func shieldSetting(c *bulwark.ShieldChange, word, value string, f shieldFlags) (err error) {
	switch word {
	case "waf":
		c.WAF, err = bulwark.ParseWAFMode(value)
	case "tls":
		c.TLS, err = bulwark.ParseTLSPolicy(value)
	case "backend":
		c.Backend, err = bulwark.ParseBackend(value)
	case "hsts":
		c.HSTS, err = bulwark.ParseHSTSPolicy(value)
	case "loosen", "keep":
		h, err := bulwark.ParseSecurityHeader(value)
		if err != nil {
			return err
		}
		if word == "loosen" {
			c.Loosen = append(c.Loosen, h)
		} else {
			c.Keep = append(c.Keep, h)
		}
	case "csp":
		c.CSP, err = bulwark.ParseCSPolicy(value)
	case "client-ca":
		c.ClientCA, err = readClientCA(value)
	case "trace":
		c.Trace, err = bulwark.ParseTraceShare(value)
	case "challenge":
		c.Challenge, err = bulwark.ParseChallengeMode(value)
	case "limit":
		per, err := bulwark.ParseScope(f.per)
		if err != nil {
			return err
		}
		if value == "off" {
			c.Unlimit = append(c.Unlimit, bulwark.LimitName{Per: per, Path: f.path})
			return nil
		}
		rate, err := bulwark.ParseRate(value)
		c.Limit = append(c.Limit, bulwark.RateLimit{Rate: rate, Per: per, Path: f.path})
		return err
	case "deny", "forget":
		if n, err := bulwark.ParseASN(value); err == nil {
			if word == "deny" {
				c.DenyAS = append(c.DenyAS, n)
			} else {
				c.ForgetAS = append(c.ForgetAS, n)
			}
			return nil
		}
		fallthrough
	case "allow":
		nets, err := bulwark.ParseNetwork(value)
		if err != nil {
			return err
		}
		switch word {
		case "allow":
			c.Allow = append(c.Allow, nets...)
		case "deny":
			c.Deny = append(c.Deny, nets...)
		default:
			c.Forget = append(c.Forget, nets...)
		}
	case "exclude", "include":
		rule, err := strconv.Atoi(value)
		if err != nil || rule <= 0 {
			return bulwark.Invalid(fmt.Sprintf("%s is no number of a rule.", quote(value)), "Give one that bulwark shield shows, such as 942100.")
		}
		e := bulwark.Exclusion{Rule: rule, Path: f.path, Arg: f.arg}
		if word == "exclude" {
			c.Exclude = append(c.Exclude, e)
		} else {
			c.Include = append(c.Include, e)
		}
	default:
		return bulwark.Invalid(fmt.Sprintf("There is no setting %s.", quote(word)), "The settings are "+strings.Join(shieldSettings(), ", ")+".")
	}
	return err
}

func (c *cli) showShield(ctx context.Context) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	v, err := s.Shield(ctx, name)
	if err != nil {
		return err
	}
	return c.result(v, func() {
		c.head("%s shield", name)
		c.fields("Firewall", firewallWords(v.Shield), "Limits", limitWords(v.Shield), "TLS", cmp.Or(string(v.Shield.TLS), string(bulwark.TLSIntermediate)), "Backend", string(v.Shield.Backend), "Client authorities", clientCAWords(v.Shield), "HSTS", string(v.Shield.HSTS), "Loosened", joined(v.Shield.Loosened), "Content policy", cspWords(v.Shield), "Traced", string(v.Shield.Trace), "Challenge", challengeWords(v.Shield), "Maintenance", maintenanceWords(v.Shield), "Pages", joined(slices.Sorted(maps.Keys(v.Shield.Pages))), "Allowed", joined(v.Shield.Allow), "Denied", deniedWords(v.Shield),
			"Excluded", joined(v.Shield.Exclude))
		c.showRefusals(v.Hour)
		c.showCSP(v.Shield, v.Hour.CSP)
	})
}

func (c *cli) showRefusals(h bulwark.ShieldStats) {
	c.head("Last hour")
	if len(h.Counts) == 0 {
		c.empty("Nothing was refused.")
		return
	}
	var rows [][]string
	for _, r := range refusals() {
		if n := h.Counts[r.reason]; n > 0 {
			rows = append(rows, []string{string(r.reason), strconv.Itoa(n), r.words})
		}
	}
	c.table(rows)
	if len(h.Examples) == 0 {
		return
	}
	c.head("Examples")
	rows = nil
	for _, x := range h.Examples {
		rows = append(rows, []string{x.Time.UTC().Format(time.TimeOnly), string(x.Reason), x.Client, x.Method + " " + x.Path, ruleWords(x), x.ID})
	}
	c.table(rows)
}

// refusals are the reasons with what they mean, in the order in which they are shown.
func refusals() []struct {
	reason bulwark.Refusal
	words  string
} {
	return []struct {
		reason bulwark.Refusal
		words  string
	}{
		{bulwark.RefusedDeny, "refused: the network is denied"},
		{bulwark.RefusedCertificate, "refused: no certificate that the app asks for"},
		{bulwark.RefusedLimit, "refused: more than a limit lets through"},
		{bulwark.RefusedChallenge, "asked to compute first"},
		{bulwark.RefusedWAF, "refused: looked like an attack"},
		{bulwark.NotedWAF, "passed on: looked like an attack"},
		{bulwark.SkippedWAF, "passed on: not looked at, too much was to be done"},
		{bulwark.RefusedPatch, "refused: met a virtual patch"},
		{bulwark.NotedPatch, "passed on: met a virtual patch in its dry run"},
		{bulwark.RefusedFlood, "refused: the app was sent more than its share of what the edge can do"},
		{bulwark.RefusedBusy, "refused: too much was to be done"},
	}
}

func firewallWords(s bulwark.Shield) string {
	switch s.WAF {
	case bulwark.WAFBlock:
		return "block: what looks like an attack is refused"
	case bulwark.WAFOff:
		return "off"
	}
	return "detect: what looks like an attack is noted, and passed on"
}

func readClientCA(file string) (bulwark.ClientCA, error) {
	if file == string(bulwark.ClientCAOff) {
		return bulwark.ClientCAOff, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s cannot be read.", quote(file)), "Give a file of certificates in PEM, or off.", err)
	}
	return bulwark.ParseClientCA(string(b))
}

func cspWords(s bulwark.Shield) string {
	if s.CSP == bulwark.CSPReport {
		return "report: browsers tell what pages load"
	}
	return string(s.CSP)
}

// showCSP shows what browsers told that pages load, and the policy that would allow it.
func (c *cli) showCSP(s bulwark.Shield, seen []bulwark.CSPSource) {
	if s.CSP != bulwark.CSPReport {
		return
	}
	c.head("Pages load")
	if len(seen) == 0 {
		c.empty("No browser has told yet. Visit the app's pages, then look again.")
		return
	}
	var rows [][]string
	for _, v := range seen {
		rows = append(rows, []string{v.Directive, v.Source, strconv.Itoa(v.Count)})
	}
	c.table(rows)
	c.head("A policy that allows this and nothing else")
	fmt.Fprintln(c.stdout, clean(string(bulwark.ProposeCSP(seen))))
}

func clientCAWords(s bulwark.Shield) string {
	if s.ClientCA == "" {
		return ""
	}
	return s.ClientCA.String()
}

func challengeWords(s bulwark.Shield) string {
	if s.Challenge == bulwark.ChallengeOn {
		return "on: browsers compute for a moment, programs are refused"
	}
	return "" // off is not worth a line
}

func maintenanceWords(s bulwark.Shield) string {
	if s.Maintenance == bulwark.MaintenanceOn {
		return "on: the edge answers in the app's place"
	}
	return ""
}

func limitWords(s bulwark.Shield) string {
	var words []string
	for _, l := range s.Limits {
		words = append(words, l.String())
	}
	if !slices.ContainsFunc(s.Limits, func(l bulwark.RateLimit) bool { return l.Per == bulwark.PerClient && l.Path == "" }) {
		words = append(words, "200r/s per client, as every app has")
	}
	return strings.Join(words, "; ")
}

// ruleWords names the rule that says most: the first, with how many more there were.
func ruleWords(x bulwark.ShieldExample) string {
	rules := x.Rules
	if x.Patch != "" {
		return "patch " + string(x.Patch)
	}
	if len(rules) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d %s", rules[0].ID, rules[0].Message)
	if rules[0].Where != "" {
		s += " in " + rules[0].Where
	}
	if len(rules) > 1 {
		s += fmt.Sprintf(", and %d more", len(rules)-1)
	}
	return s
}

func deniedWords(s bulwark.Shield) string {
	words := []string{joined(s.Deny), joined(s.DenyAS)}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), ", ")
}

func joined[T fmt.Stringer](list []T) string {
	var words []string
	for _, v := range list {
		words = append(words, v.String())
	}
	return strings.Join(words, ", ")
}

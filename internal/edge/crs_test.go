package edge

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	crstests "github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/goccy/go-yaml"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// ruleTests is a file of the rule set's own tests (schema of go-ftw).
type ruleTests struct {
	Rule  int `yaml:"rule_id"`
	Tests []struct {
		ID     int `yaml:"test_id"`
		Stages []struct {
			Input  ruleInput  `yaml:"input"`
			Output ruleOutput `yaml:"output"`
		} `yaml:"stages"`
	} `yaml:"tests"`
}

type ruleInput struct {
	Method   *string           `yaml:"method"`
	URI      *string           `yaml:"uri"`
	Version  *string           `yaml:"version"`
	Headers  map[string]string `yaml:"headers"`
	Data     *string           `yaml:"data"`
	Encoded  string            `yaml:"encoded_request"`
	Complete *bool             `yaml:"autocomplete_headers"`
}

type ruleOutput struct {
	Status int   `yaml:"status"`
	Error  *bool `yaml:"expect_error"`
	Log    struct {
		Expect  []int  `yaml:"expect_ids"`
		Not     []int  `yaml:"no_expect_ids"`
		Match   string `yaml:"match_regex"`
		NoMatch string `yaml:"no_match_regex"`
	} `yaml:"log"`
}

// paranoid is the configuration for which the tests are made.
const paranoid = `
SecRuleEngine DetectionOnly
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.blocking_paranoia_level=4"
SecAction "id:900001,phase:1,pass,t:none,nolog,setvar:tx.detection_paranoia_level=4"
SecAction "id:900010,phase:1,pass,t:none,nolog,setvar:tx.crs_validate_utf8_encoding=1"
SecAction "id:900011,phase:1,pass,t:none,nolog,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,setvar:tx.max_num_args=255,setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535"
`

// everyRule is how many of the rule set's tests are left out for each that is run: with the race detector all would take long.
var everyRule = flag.Int("rules", 25, "run each nth of the rule set's own tests")

// unlike are tests whose result is another one here, with the reason.
var unlikeRules = map[string]string{
	"920100-16": "The edge rewrites a target in absolute form before anybody looks at it.",
	"920620-1":  "It expects a server that drops the second of two headers; here both are looked at.",
	// By HTTP/2 alone.
	"920180-1": "The client says how long the body is, which the test leaves out.",
	"920330-1": "The client leaves an empty header out.",
	"920640-5": "The client says how long the body is, which the test leaves out.",
}

// The rule set's own tests go through the whole edge.
func TestCoreRuleSet(t *testing.T) {
	t.Run("HTTP/1.1", func(t *testing.T) { coreRuleSet(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { coreRuleSet(t, true) })
}

func coreRuleSet(t *testing.T, h2 bool) {
	f, err := waf.New(waf.Config{Before: paranoid, Stock: true})
	if err != nil {
		t.Fatal(err)
	}
	var seen sync.Map // request id to verdict
	r := newRig(t, func(c *Config) {
		c.Firewall = f
		c.observe = func(id string, v waf.Verdict) { seen.Store(id, v) }
		c.alikeFor = 1 // some tests are alike
	})
	hosts := map[bulwark.HostName]bool{"localhost": true}
	each(t, func(_ string, in ruleInput, _ ruleOutput) {
		if h, _, ok := hostOf(in.Headers["Host"]); ok {
			if h, err := bulwark.ParseHostName(string(h)); err == nil {
				hosts[h] = true
			}
		}
	})
	names := slices.Collect(maps.Keys(hosts))
	ca := newAuthority(t)
	r.pool.AddCert(ca.cert)
	if err := r.certs.PutCertificates(t.Context(), []bulwark.Certificate{ca.issue(t, "", names...)}); err != nil {
		t.Fatal(err)
	}
	at := backend(t, reflect)
	for _, h := range names {
		r.serve(h, at)
	}
	client := r.client(true)
	n, ran, refused, unsaid := 0, 0, 0, 0
	each(t, func(name string, in ruleInput, out ruleOutput) {
		if n++; n%*everyRule != 0 {
			return
		}
		var resp *http.Response
		var err error
		if h2 {
			var req *http.Request
			if req, err = in.request(); err != nil {
				unsaid++ // HTTP/2, or who speaks it for us, has no words for such a request
				return
			}
			resp, err = client.Do(req)
		} else {
			c := r.conn("localhost", "http/1.1")
			defer c.Close()
			_, _ = c.Write(in.raw())
			resp, err = http.ReadResponse(bufio.NewReader(c), nil)
		}
		ran++
		if err != nil {
			if !h2 && (out.Error == nil || !*out.Error) {
				t.Errorf("%s: no answer: %v", name, err)
			}
			unsaid++
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 400 && resp.Header.Get("Backend") == "" {
			refused++ // before anybody looks at it: such a request reaches no app whatever the firewall thinks
			return
		}
		id := resp.Header.Get("X-Request-Id")
		found, ok := seen.LoadAndDelete(id)
		for end := time.Now().Add(20 * time.Second); !ok && time.Now().Before(end); found, ok = seen.LoadAndDelete(id) {
			time.Sleep(time.Millisecond) // it is looked at when its answer is on its way
		}
		if !ok {
			t.Errorf("%s: not looked at", name)
			return
		}
		met := map[int]bool{}
		for _, x := range found.(waf.Verdict).Rules {
			met[x.ID] = true
		}
		var wrong []string
		for _, want := range out.Log.Expect {
			if !met[want] {
				wrong = append(wrong, fmt.Sprintf("%d was not met", want))
			}
		}
		for _, not := range out.Log.Not {
			if met[not] {
				wrong = append(wrong, fmt.Sprintf("%d was met", not))
			}
		}
		switch {
		case len(wrong) == 0:
		case unlikeRules[name] != "":
			t.Logf("%s: %v. %s", name, wrong, unlikeRules[name])
		default:
			t.Errorf("%s: %v, but %v\n%.600q", name, wrong, slices.Sorted(maps.Keys(met)), in.raw())
		}
	})
	t.Logf("%d of %d tests; %d refused by the edge itself; %d cannot be said by the client", ran, n, refused, unsaid)
	if ran*2 < n / *everyRule {
		t.Error("fewer than half of the tests were run")
	}
}

// request is the request for a client that speaks HTTP/2.
func (in ruleInput) request() (*http.Request, error) {
	if in.Encoded != "" || or(in.Version, "HTTP/1.1") != "HTTP/1.1" {
		return nil, errors.New("it is about how HTTP/1.1 is written")
	}
	host := in.Headers["Host"]
	if host == "" {
		return nil, errors.New("it is about a request without a host")
	}
	data := in.data()
	var body io.Reader
	if data != "" {
		body = strings.NewReader(data)
	}
	req, err := http.NewRequest(or(in.Method, "GET"), "https://localhost/", body)
	if err != nil {
		return nil, err
	}
	target := or(in.URI, "/")
	if !strings.HasPrefix(target, "/") || strings.ContainsAny(target, "# ") || strings.ContainsFunc(target, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return nil, errors.New("it is about how a target is written")
	}
	req.URL = &url.URL{Scheme: "https", Host: "localhost", Opaque: target}
	req.Host = host
	for k, v := range in.Headers {
		switch strings.ToLower(k) {
		case "host":
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "te", "content-length":
			return nil, errors.New("it is about headers that HTTP/2 does not have")
		default:
			req.Header[http.CanonicalHeaderKey(k)] = []string{v}
		}
	}
	if _, has := req.Header["User-Agent"]; !has {
		req.Header["User-Agent"] = []string{""} // the client would say who it is
	}
	return req, nil
}

// each passes on each stage of each test.
func each(t *testing.T, do func(name string, in ruleInput, out ruleOutput)) {
	err := fs.WalkDir(crstests.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		b, err := fs.ReadFile(crstests.FS, path)
		if err != nil {
			return err
		}
		var file ruleTests
		if err := yaml.Unmarshal(b, &file); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, test := range file.Tests {
			for _, s := range test.Stages {
				do(fmt.Sprintf("%d-%d", file.Rule, test.ID), s.Input, s.Output)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func or(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}

// data is the body, in which a Go template may stand.
func (in ruleInput) data() string {
	data := or(in.Data, "")
	if !strings.Contains(data, "{{") {
		return data
	}
	made, err := template.New("").Funcs(template.FuncMap{"repeat": func(n int, s string) string { return strings.Repeat(s, n) }}).Parse(data)
	var b strings.Builder
	if err != nil || made.Execute(&b, nil) != nil {
		return data // braces of an attack
	}
	return b.String()
}

// raw is the request as it is sent.
func (in ruleInput) raw() []byte {
	if in.Encoded != "" {
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(in.Encoded, "\n", ""))
		if err != nil {
			panic(err)
		}
		return b
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", or(in.Method, "GET"), or(in.URI, "/"), or(in.Version, "HTTP/1.1"))
	has := func(name string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(in.Headers)), func(k string) bool { return strings.EqualFold(k, name) })
	}
	for _, k := range slices.Sorted(maps.Keys(in.Headers)) {
		fmt.Fprintf(&b, "%s: %s\r\n", k, in.Headers[k])
	}
	data := in.data()
	if in.Complete == nil || *in.Complete {
		if !has("Connection") {
			b.WriteString("Connection: close\r\n")
		}
		if data != "" && !has("Content-Length") && !has("Transfer-Encoding") {
			fmt.Fprintf(&b, "Content-Length: %d\r\n", len(data))
		}
	}
	b.WriteString("\r\n" + data)
	return b.Bytes()
}

// reflect answers as the request's body asks for, as the rule set's own backend does.
func reflect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Backend", "1")
	var ask struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
		Encoded []byte            `json:"encodedBody"`
	}
	b, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/reflect" && json.Unmarshal(b, &ask) == nil {
		for k, v := range ask.Headers {
			w.Header().Set(k, v)
		}
		if ask.Status != 0 {
			w.WriteHeader(ask.Status)
		}
		w.Write([]byte(ask.Body))
		w.Write(ask.Encoded)
		return
	}
	w.Write([]byte("ok"))
}

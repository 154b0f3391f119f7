package waf

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/goccy/go-yaml"
)

// everything has all of the outside texts looked at, also by the rule set alone: with the race detector that takes long.
var everything = flag.Bool("everything", false, "look at all of the outside texts, and say what the rule set alone refuses")

// outside is a folder of the corpora that `make test-tools` brings: attacks and harmless texts that others collected. None of it is ours, and
// none is in the tree.
func outside(t testing.TB, name string) string {
	bin := os.Getenv("BULWARK_TEST_TOOLS")
	dir := filepath.Join(bin, "..", "corpus", name)
	if _, err := os.Stat(dir); bin == "" || err != nil {
		t.Fatalf("there is no corpus %s: `make test-tools` brings it, `make test` says where by BULWARK_TEST_TOOLS", name)
	}
	return dir
}

// sample is a request of a corpus.
type sample struct {
	request *Request
	kept    bool // to measure with, and not to learn from
	attack  bool
	name    string
	text    string
}

// kept tells to which half a text belongs, wherever it is sent and however it is encoded.
func kept(text string) bool { return sha256.Sum256([]byte(text))[0]&1 == 1 }

// goTestWAF are the requests that GoTestWAF sends, but those of gRPC.
func goTestWAF(t testing.TB) (out []sample) {
	err := filepath.WalkDir(outside(t, "gotestwaf"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yml" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var file struct {
			Payload     []string `yaml:"payload"`
			Encoder     []string `yaml:"encoder"`
			Placeholder []any    `yaml:"placeholder"`
		}
		b = bytes.ReplaceAll(b, []byte(`- "\'`), []byte(`- "'`)) // an escape that YAML does not have
		if err := yaml.Unmarshal(b, &file); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".yml")
		for _, text := range file.Payload {
			for _, e := range file.Encoder {
				for _, p := range file.Placeholder {
					q := place(p, encoded(e, text))
					if q == nil {
						continue // no client can send it
					}
					out = append(out, sample{q, kept(text), !strings.Contains(path, "false-pos"), fmt.Sprintf("%s %s %v", name, e, p), text})
				}
			}
		}
		return nil
	})
	if err != nil || len(out) < 600 {
		t.Fatal(len(out), err)
	}
	return out
}

func encoded(how, text string) string {
	switch how {
	case "URL":
		return url.PathEscape(text)
	case "Base64Flat":
		return strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(text)), "=")
	}
	return text
}

// place is the request that has a text in some place.
func place(where any, text string) *Request {
	var conf map[string]any
	name, ok := where.(string)
	if m, is := where.(map[string]any); is {
		for k, v := range m {
			name, conf = k, v.(map[string]any)
		}
	} else if !ok {
		return nil
	}
	const base, arg = "http://shop.example.org/", "f3a9c0d17e"
	switch name {
	case "URLPath":
		return send("GET", base+text, "", "")
	case "URLParam":
		return send("GET", base+"?"+arg+"="+text, "", "")
	case "HTMLForm":
		return send("POST", base, "application/x-www-form-urlencoded", arg+"="+text)
	case "HTMLMultipartForm":
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		_ = w.WriteField(arg, text)
		w.Close()
		return send("POST", base, w.FormDataContentType(), b.String())
	case "JSONRequest":
		var b strings.Builder
		for _, c := range utf16.Encode([]rune(text)) {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		return send("POST", base, "application/json", fmt.Sprintf(`{"test": true, "%s": "%s"}`, arg, b.String()))
	case "XMLBody":
		return send("POST", base, "application/xml", text)
	case "SOAPBody":
		var b bytes.Buffer
		_ = xml.EscapeText(&b, []byte(text))
		return send("POST", base, "text/xml", `<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>`+
			`<get xmlns="https://www.example.org/v2"><filter><`+"a"+arg+`>`+b.String()+`</`+"a"+arg+`></filter></get></soapenv:Body></soapenv:Envelope>`)
	case "Header":
		return send("GET", base, "", "", "X-"+arg, text)
	case "UserAgent":
		return send("GET", base, "", "", "User-Agent", text)
	case "GraphQL":
		if conf["method"] == "GET" {
			return send("GET", base+"?query="+url.QueryEscape(text), "", "")
		}
		return send("POST", base, "", text)
	case "RawRequest":
		fill := func(s any) string { f, _ := s.(string); return strings.ReplaceAll(f, "{{payload}}", text) }
		var more []string
		if h, ok := conf["headers"].(map[string]any); ok {
			for k, v := range h {
				more = append(more, k, fill(v))
			}
		}
		return send(conf["method"].(string), base+strings.TrimPrefix(strings.ReplaceAll(conf["path"].(string), "{{payload}}", url.PathEscape(text)), "/"), "", fill(conf["body"]), more...)
	}
	return nil
}

// send is a request as a client sends it.
func send(method, target, kind, body string, more ...string) *Request {
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return nil
	}
	r.Header.Set("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36")
	r.Header.Set("Accept", "*/*")
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(more); i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	if body != "" {
		r.Header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	return &Request{ID: "x", Client: "192.0.2.1", Method: method, Target: r.URL.RequestURI(), Proto: "HTTP/1.1", Host: "shop.example.org", Header: r.Header, Body: []byte(body)}
}

// injections are the attacks that come with wfuzz, as arguments of a query and of JSON.
func injections(t testing.TB) (out []sample) {
	dir := outside(t, "wfuzz")
	for _, name := range []string{"SQL.txt", "Traversal.txt", "XML.txt", "XSS.txt"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			if l = strings.TrimRight(l, "\r\n"); l != "" {
				out = append(out, plainly(name, l, true)...)
			}
		}
	}
	return out
}

// sayings are the texts of the collections that come with fortune: prose, verse and code, in English and German. Each nth is taken.
func sayings(t testing.TB, every int) (out []sample) {
	n := 0
	err := filepath.WalkDir(outside(t, "fortunes"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != "" || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for text := range strings.SplitSeq(string(b), "\n%\n") {
			if n++; n%every == 0 && strings.TrimSpace(text) != "" {
				out = append(out, plainly(filepath.Base(path), text, false)...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plainly are requests with a text as an argument.
func plainly(name, text string, attack bool) []sample {
	j, _ := json.Marshal(map[string]any{"id": 17, "text": text})
	return []sample{
		{send("POST", "http://shop.example.org/notes", "application/x-www-form-urlencoded", "id=17&text="+url.QueryEscape(text)), kept(text), attack, name + " form", text},
		{send("POST", "http://shop.example.org/notes", "application/json", string(j)), kept(text), attack, name + " json", text},
	}
}

// score counts what was refused of a corpus, by half and by kind.
type score struct{ refused, all int }

func (s score) String() string {
	return fmt.Sprintf("%d of %d (%.1f %%)", s.refused, s.all, 100*float64(s.refused)/float64(max(1, s.all)))
}

func (s score) rate() float64 { return float64(s.refused) / float64(max(1, s.all)) }

// judge looks at all samples. What it was wrong about is shown for the half to learn from alone.
func judge(t testing.TB, f *Firewall, all []sample, show bool) (learn, keep score) {
	for _, s := range all {
		v := f.Look(s.request, nil)
		at := &learn
		if s.kept {
			at = &keep
		}
		at.all++
		if v.Attack {
			at.refused++
		}
		if show && !s.kept && v.Attack != s.attack {
			var ids []int
			for _, r := range v.Rules {
				ids = append(ids, r.ID)
			}
			slices.Sort(ids)
			t.Logf("%s: %.160q %v", s.name, s.text, slices.Compact(ids))
		}
	}
	return learn, keep
}

func only(all []sample, attack bool) (out []sample) {
	for _, s := range all {
		if s.attack == attack {
			out = append(out, s)
		}
	}
	return out
}

// What is refused of attacks and of harmless texts that others collected, beside what the rule set alone refuses.
func TestOutside(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	every := 200
	if *everything {
		every = 1
	}
	tested := goTestWAF(t)
	for _, c := range []struct {
		name     string
		samples  []sample
		from, to float64 // what of the kept half may be refused
	}{
		{"GoTestWAF, attacks", only(tested, true), 0.95, 1},
		{"GoTestWAF, harmless", only(tested, false), 0, 0.05},
		{"wfuzz, attacks", injections(t), 0.65, 1}, // a third are pieces such as a quote or "as"
		{"fortune, harmless", sayings(t, every), 0, 0.02},
	} {
		if *everything {
			alone, err := New(Config{Stock: true})
			if err != nil {
				t.Fatal(err)
			}
			l, k := judge(t, alone, c.samples, false)
			t.Logf("%s: refused by the rule set alone of the half to learn from %v, of the kept half %v", c.name, l, k)
		}
		l, k := judge(t, f, c.samples, *everything)
		t.Logf("%s: refused of the half to learn from %v, of the kept half %v", c.name, l, k)
		if r := k.rate(); r < c.from || r > c.to {
			t.Errorf("%s: %v refused of the kept half", c.name, k)
		}
	}
}

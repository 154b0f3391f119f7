package edge

import (
	"context"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// unlike are the cases of h2spec in which net/http does otherwise, each with the reason why that is harmless.
var unlike = map[string]string{
	"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "a frame that names a setting twice ends the connection; RFC 9113 would have the last value count. No " +
		"client sends such a frame, and refusing it bounds what a peer can have the server do",
	"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       refused400,
	"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": refused400,
}

const refused400 = "the request is answered with 400 and not by a reset of the stream; either way it is refused, and no app sees it"

// The whole of h2spec, also its strict cases, is run through the edge to an app.
func TestH2Spec(t *testing.T) {
	program := filepath.Join(os.Getenv("BULWARK_TEST_TOOLS"), "h2spec")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("there is no h2spec: `make test-tools` builds it, `make test` says where by BULWARK_TEST_TOOLS: %v", err)
	}
	r := newRig(t, nil)
	ca := newAuthority(t)
	if err := r.issued.PutCertificates(t.Context(), []bulwark.Certificate{ca.issue(t, "", "localhost")}); err != nil {
		t.Fatal(err)
	}
	r.serve("localhost", backend(t, func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		w.Write(make([]byte, 4096))
	}))
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "report.xml")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	said, err := exec.CommandContext(ctx, program, "-h", "localhost", "-p", port, "-t", "-k", "-S", "-o", "3", "-j", out).CombinedOutput()
	b, rerr := os.ReadFile(out)
	if rerr != nil {
		t.Fatalf("%v: %v\n%s", err, rerr, said)
	}
	var report struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
				Skipped *string `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	ran, passed := 0, 0
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			ran++
			name := s.Package + ": " + c.Name
			failed := c.Failure != nil || c.Error != nil
			reason, known := unlike[name]
			switch {
			case failed && !known:
				t.Errorf("%s", name)
			case !failed && known:
				t.Errorf("%s holds now, so it needs no reason: %s", name, reason)
			case !failed && c.Skipped == nil:
				passed++
			}
		}
	}
	t.Logf("%d of %d", passed, ran)
	if ran < 140 {
		t.Errorf("%d cases were run alone\n%s", ran, said)
	}
}

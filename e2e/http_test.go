package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/rogpeppe/go-internal/testscript"
)

// domain is that of every installation here. Its names lead to this machine, whatever its resolver says.
const domain = "bulwark.localhost"

// transport reaches an installation's apps by their names.
func (i *installation) transport(h2 bool) (*http.Transport, error) {
	pool, err := i.authorities()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: h2,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			var d net.Dialer
			return d.DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}
	if !h2 {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return t, nil
}

// wanted is what a request should lead to.
type wanted struct {
	until  time.Duration
	status int
	match  string
	host   string
	// headers are sent as they are written.
	headers []string
}

func request(ts *testscript.TestScript, neg bool, scheme string, args []string) {
	var w wanted
	flags := flag.NewFlagSet("https", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.DurationVar(&w.until, "until", 0, "")
	flags.IntVar(&w.status, "status", 200, "")
	flags.StringVar(&w.match, "match", "", "")
	flags.StringVar(&w.host, "host", "", "")
	flags.Func("header", "", func(s string) error { w.headers = append(w.headers, s); return nil })
	cert := flags.String("cert", "", "") // CHAIN:KEY, which the client shows
	quic := flags.Bool("h3", false, "")  // by HTTP/3
	own := flags.Bool("own", false, "")  // a certificate of the edge's own making will do, as a name has that no authority was asked for
	if err := flags.Parse(args); err != nil || flags.NArg() < 3 || flags.NArg() > 4 {
		ts.Fatalf("usage: %s [-until D] [-status N] [-match RE] [-host H [-own]] [-header 'NAME: VALUE']... [-cert CHAIN:KEY] [-h3] METHOD APP PATH [BODY] (%v)", scheme, err)
	}
	t, err := of(ts).on.transport(true)
	ts.Check(err)
	defer t.CloseIdleConnections()
	t.TLSClientConfig.InsecureSkipVerify = *own
	if chain, key, ok := strings.Cut(*cert, ":"); ok {
		pair, err := tls.LoadX509KeyPair(ts.MkAbs(chain), ts.MkAbs(key))
		ts.Check(err)
		t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	var by http.RoundTripper = t
	if *quic {
		q := &http3.Transport{TLSClientConfig: t.TLSClientConfig, Dial: func(ctx context.Context, addr string, c *tls.Config, config *quicgo.Config) (*quicgo.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return quicgo.DialAddr(ctx, "127.0.0.1:"+port, c, config)
		}}
		defer q.Close()
		by = q
	}
	client := &http.Client{Transport: by, Timeout: 40 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a := flags.Args()
	host := w.host
	if host == "" {
		host = a[1] + "." + domain
	}
	url := fmt.Sprintf("%s://%s:%s%s", scheme, host, of(ts).on.ports[strings.ToUpper(scheme)], a[2])
	body := ""
	if len(a) == 4 {
		body = a[3]
	}
	var text, head string
	err = poll(w.until, func() error {
		text, head, err = ask(client, a[0], url, body, w)
		return err
	})
	if neg == (err == nil) {
		ts.Fatalf("%s %s: %v\n%s", a[0], url, err, text)
	}
	fmt.Fprint(ts.Stdout(), text)
	fmt.Fprint(ts.Stderr(), head)
}

// ask makes a request and judges the answer. head is its status line and headers.
func ask(client *http.Client, method, url, body string, w wanted) (text, head string, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	for _, h := range w.headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return string(b), "", err
	}
	var h strings.Builder
	fmt.Fprintf(&h, "%s %s\n", res.Proto, res.Status)
	res.Header.Write(&h)
	text, head = string(b), strings.ReplaceAll(h.String(), "\r", "")
	if res.StatusCode != w.status {
		return text, head, fmt.Errorf("the answer is %s\n%s", res.Status, text)
	}
	if !regexp.MustCompile("(?m)" + w.match).MatchString(text) {
		return text, head, fmt.Errorf("no %q in the answer\n%s", w.match, text)
	}
	return text, head, nil
}

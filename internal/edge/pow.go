package edge

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/bits"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// The challenge is a proof of work: a browser that is let in has computed for about a second. It sets a cookie that says so for this client's network and this
// host, and nothing of anybody: there is no third party in it, and nothing is kept here.
const (
	powPath   = "/.well-known/bulwark/challenge" // reserved while an app has the challenge on
	powCookie = "__Host-bulwark-pass"
	powBits   = 15              // leading zeros of a hash: some 33,000 tries
	powTime   = 5 * time.Minute // in which it has to be computed
	passTime  = 6 * time.Hour   // for which one is let in
)

// pow makes and checks challenges, by a key that the supervisor holds over a restart.
type pow struct{ key [32]byte }

func newPow() *pow {
	p := &pow{}
	_, _ = rand.Read(p.key[:]) // it does not fail (crypto/rand)
	return p
}

// mark is a time with a code that binds it to what it is for, whom and where.
func (p *pow) mark(what string, until time.Time, host bulwark.HostName, client netip.Addr) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(until.Unix())) //nolint:gosec // a time after 1970
	return base64.RawURLEncoding.EncodeToString(append(b[:], p.code(what, b, host, client)...))
}

func (p *pow) code(what string, at [8]byte, host bulwark.HostName, client netip.Addr) []byte {
	h := hmac.New(sha256.New, p.key[:])
	for _, part := range [][]byte{[]byte(what), at[:], []byte(host), client.AsSlice()} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part))) //nolint:gosec // short
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// good tells whether a mark is ours, for this, and not over.
func (p *pow) good(mark, what string, host bulwark.HostName, client netip.Addr, now time.Time) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(mark)
	if err != nil || len(b) != 8+sha256.Size {
		return false
	}
	at := [8]byte(b[:8])
	return hmac.Equal(b[8:], p.code(what, at, host, client)) && now.Unix() < int64(binary.BigEndian.Uint64(at[:])) //nolint:gosec // ours, so a time
}

// solved tells whether an answer "MARK.NUMBER" solves the mark.
func (p *pow) solved(answer string, host bulwark.HostName, client netip.Addr, now time.Time) bool {
	mark, _, ok := strings.Cut(answer, ".")
	if !ok || !p.good(mark, "challenge", host, client, now) {
		return false
	}
	sum := sha256.Sum256([]byte(answer))
	return bits.LeadingZeros32(binary.BigEndian.Uint32(sum[:4])) >= powBits
}

// powScript computes, and reloads the page when it may come in. It is constant, so that the page's policy names it by its hash.
const powScript = `(async()=>{const e=document.getElementById("bulwark"),m=e.dataset.mark,d=+e.dataset.bits,t=new TextEncoder();` +
	`try{for(let n=0;;n+=64){const h=await Promise.all([...Array(64).keys()].map(i=>crypto.subtle.digest("SHA-256",t.encode(m+"."+(n+i)))));` +
	`const i=h.findIndex(b=>new DataView(b).getUint32(0)>>>0<2**(32-d));` +
	`if(i>=0){const r=await fetch("` + powPath + `",{method:"POST",body:m+"."+(n+i)});` +
	`if(r.ok){location.reload();return}throw 0}}}catch{e.textContent="This did not work. Load the page again."}})()`

// challenged lets in who has computed, and asks others to; false: it was answered.
func (x *exchange) challenged(c *chosen, at netip.Addr) bool {
	if c.shield.Challenge != bulwark.ChallengeOn {
		return true
	}
	client := network(at)
	if x.path() == powPath {
		x.takeAnswer(client)
		return false
	}
	if x.e.pow.good(passOf(x.r), "pass", x.host, client, x.start) {
		return true
	}
	x.guard.tally.note(x.example(bulwark.RefusedChallenge))
	x.fault = string(bulwark.RefusedChallenge)
	if x.r.Method != http.MethodGet || !strings.Contains(x.r.Header.Get("Accept"), "text/html") {
		x.refuse(pageBrowsers)
		return false
	}
	x.status = pageChallenge.status
	x.out = int64(x.writeChallenge(x.e.pow.mark("challenge", x.start.Add(powTime), x.host, client)))
	return false
}

// passOf is the value of the edge's cookie.
func passOf(r *http.Request) string {
	c, err := r.Cookie(powCookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// takeAnswer lets a browser in that solved its challenge.
func (x *exchange) takeAnswer(client netip.Addr) {
	const most = 200 // bytes of an answer
	var b []byte
	if x.r.Method == http.MethodPost && x.r.ContentLength > 0 && x.r.ContentLength <= most {
		x.yield()
		rc := http.NewResponseController(x.w)
		_ = rc.SetReadDeadline(time.Now().Add(readHeaderTime))
		b, _ = io.ReadAll(io.LimitReader(x.r.Body, most)) // what is cut off solves nothing
		_ = rc.SetReadDeadline(time.Time{})
	}
	if !x.e.pow.solved(string(b), x.host, client, x.start) {
		x.refuse(pageBrowsers)
		return
	}
	h := x.w.Header()
	x.e.headers.addTo(h)
	pass := http.Cookie{Name: powCookie, Value: x.e.pow.mark("pass", x.start.Add(passTime), x.host, client), Path: "/", MaxAge: int(passTime.Seconds()),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	h["Set-Cookie"] = []string{pass.String()}
	h["Cache-Control"] = x.e.headers.noStore
	x.status = http.StatusNoContent
	x.w.WriteHeader(http.StatusNoContent)
}

// writeChallenge answers with a page that computes.
func (x *exchange) writeChallenge(mark string) int {
	x.yield() // who is answered may take its time
	sum := sha256.Sum256([]byte(powScript))
	body := pageChallenge.html(x.id)
	body = append(body[:len(body)-len("</html>")], `<p id="bulwark" data-bits="`+strconv.Itoa(powBits)+`" data-mark="`+mark+`"></p><noscript><p>It takes a browser that runs scripts.</p></noscript><script>`+
		powScript+`</script></html>`...)
	h := x.w.Header()
	clear(h)
	x.e.headers.addTo(h)
	h["Content-Security-Policy"] = []string{ownPolicy + "; connect-src 'self'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"}
	h["X-Frame-Options"] = x.e.headers.deny
	h["Cache-Control"] = x.e.headers.noStore
	h["Content-Type"] = x.e.headers.html
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["X-Request-Id"] = []string{x.id}
	x.w.WriteHeader(pageChallenge.status)
	n, _ := x.w.Write(body) // a client that is gone needs no page
	return n
}

// withoutPass is a Cookie header without the edge's own cookie, which is none of the app's business; "" if nothing is left.
func withoutPass(v string) string {
	if !strings.Contains(v, powCookie) {
		return v
	}
	var left []string
	for part := range strings.SplitSeq(v, ";") {
		if name, _, _ := strings.Cut(part, "="); strings.TrimSpace(name) != powCookie {
			left = append(left, strings.TrimSpace(part))
		}
	}
	return strings.Join(left, "; ")
}

// keyText writes the key for the supervisor.
func (p *pow) keyText() []byte { return []byte(`"` + hex.EncodeToString(p.key[:]) + `"`) }

func decodePowKey(b []byte) (key [32]byte, err error) {
	var text string
	if err := fdpass.Decode(b, &text); err != nil {
		return key, err
	}
	raw, err := hex.DecodeString(text)
	if err == nil && len(raw) != len(key) {
		err = errors.New("the key of the challenge is not whole")
	}
	copy(key[:], raw)
	return key, err
}

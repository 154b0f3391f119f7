package edge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// page is an answer of the edge's own.
type page struct {
	status     int
	title      string
	text       string
	retryAfter string // seconds; empty: no use
}

// The answers of the edge. None tells anything about an app but its being there or not.
var (
	pageBadRequest  = page{400, "This request cannot be understood", "The address or a header of the request is not well formed.", ""}
	pageDenied      = page{403, "You cannot come in from here", "The app does not serve your network.", ""}
	pageCertificate = page{403, "A certificate is needed", "The app lets in who shows a certificate that its people gave out.", ""}
	pageAttack      = page{403, "This request was refused", "It looks like an attack. If it was none, tell the people of the app the number below.", ""}
	pageChallenge   = page{403, "One moment", "The app is under attack. Your browser computes for a second, and then you are let in.", ""}
	pageBrowsers    = page{403, "Browsers only", "The app is under attack, and lets browsers in alone.", ""}
	pageNoRoute     = page{404, "There is nothing here", "No app answers for this name.", ""}
	pageMethod      = page{405, "This method is not served", "Use another method.", ""}
	pageSlowRequest = page{408, "The request did not arrive", "It was cut off or took too long.", ""}
	pageMisdirected = page{421, "Wrong connection", "This connection was made for another name. Open a new one.", ""}
	pageLimited     = page{429, "Too many requests", "Wait a moment before you go on.", "1"}
	pageHeaders     = page{431, "Too many headers", "The request has more header fields than are served.", ""}
	pageBadAnswer   = page{502, "The app gave no proper answer", "Its operators can see why in their log.", ""}
	pageNoInstance  = page{503, "The app is not running", "It may be back in a moment.", "5"}
	pageMaintenance = page{503, "The app is being worked on", "It will be back soon.", "60"}
	pageBusy        = page{503, "The app is busy", "Too many requests wait for it. Try again in a moment.", "1"}
	pageSlowAnswer  = page{504, "The app took too long", "It did not begin to answer in time.", ""}
)

// ownPolicy is the content security policy of pages of ours: they need nothing but their own style.
const ownPolicy = "default-src 'none'; style-src 'sha256-dtNUSHdpBYhqlPmXU55D4LpaqgzDMRJtUNAfE+tY1h4='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const pageStyle = "body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#222;background:#fff}"

// givenPolicy is the content security policy of pages that an app's people gave: they run nothing and load nothing.
const givenPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// given is the page that an app's people gave in the place of p, empty if none.
func (p page) given(pages map[bulwark.PageName]string) string {
	switch {
	case len(pages) == 0:
		return ""
	case p == pageMaintenance:
		return pages[bulwark.PageMaintenance]
	case p.status >= 502 && p.status <= 504:
		return pages[bulwark.PageError]
	}
	return ""
}

// html renders p. All of it is constant but the request's id, which is hexadecimal.
func (p page) html(id string) []byte {
	b := make([]byte, 0, 600)
	b = append(b, `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>`...)
	b = append(b, p.title...)
	b = append(append(append(b, `</title><style>`...), pageStyle...), `</style><h1>`...)
	b = append(b, p.title...)
	b = append(append(append(b, `</h1><p>`...), p.text...), `</p><p><small>`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if id != "" {
		b = append(append(b, ` · `...), id...)
	}
	return append(b, `</small></p></html>`...)
}

// write answers with p, in the form that the app's people gave it, if they did.
func (p page) write(w http.ResponseWriter, d *defaultHeaders, id, given string) int {
	h := w.Header()
	clear(h)
	d.addTo(h)
	var body []byte
	if given == "" {
		body = p.html(id)
		h["Content-Security-Policy"] = d.ownPolicy
	} else {
		body = []byte(strings.ReplaceAll(given, bulwark.PageID, id))
		h["Content-Security-Policy"] = d.givenPolicy
	}
	h["X-Frame-Options"] = d.deny
	h["Cache-Control"] = d.noStore
	h["Content-Type"] = d.html
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if id != "" {
		h["X-Request-Id"] = []string{id}
	}
	if p.retryAfter != "" {
		h["Retry-After"] = []string{p.retryAfter}
	}
	w.WriteHeader(p.status)
	n, _ := w.Write(body) // a client that is gone needs no page
	return n
}

// defaultHeaders are the security headers, as the slices that a header map holds, made once.
type defaultHeaders struct {
	names                                       []string
	values                                      [][]string
	ownPolicy, givenPolicy, deny, noStore, html []string
}

func newDefaultHeaders() defaultHeaders {
	return defaultHeaders{
		names: []string{"Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Permissions-Policy"},
		values: [][]string{{hstsOn}, {"nosniff"}, {"SAMEORIGIN"}, {"strict-origin-when-cross-origin"},
			{"camera=(), microphone=(), geolocation=(), payment=(), usb=()"}},
		ownPolicy: []string{ownPolicy}, givenPolicy: []string{givenPolicy}, deny: []string{"DENY"}, noStore: []string{"no-store"}, html: []string{"text/html; charset=utf-8"},
	}
}

// overPlain is the same for answers that are not protected: there the word that a host is to be reached by HTTPS alone means nothing, and
// must not be sent (RFC 6797 §7.2).
func (d defaultHeaders) overPlain() defaultHeaders {
	d.names, d.values = d.names[1:], d.values[1:]
	return d
}

// addTo sets what h does not have.
func (d *defaultHeaders) addTo(h http.Header) {
	for i, name := range d.names {
		if _, set := h[name]; !set {
			h[name] = d.values[i]
		}
	}
}

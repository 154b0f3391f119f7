package edge

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// hostOf reads a Host header (or :authority): the name in lower case, and ":port" if there is one. Its result is what
// routes, what is logged and what the app gets, so that there is one reading.
func hostOf(s string) (name bulwark.HostName, port string, ok bool) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		s, port = s[:i], s[i:]
		if len(port) < 2 || len(port) > 6 {
			return "", "", false
		}
		for _, c := range []byte(port[1:]) {
			if c < '0' || c > '9' {
				return "", "", false
			}
		}
	}
	if plainHost(s) {
		return bulwark.HostName(s), port, true
	}
	name, err := bulwark.ParseHostName(s)
	return name, port, err == nil
}

// plainHost says that s needs no folding and has only characters of a host name: what is left to check is whether
// there is a route for it, and routes are well-formed names. It saves parsing on every request.
func plainHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return s != "" && s[len(s)-1] != '.' && len(s) <= 253
}

// clean says whether target is an origin-form request target that means the same to every server: visible ASCII
// without "#". HTTP/2 lets a space through to here, which in HTTP/1.1 would end the target.
func clean(target string) bool {
	if target == "" || target[0] != '/' {
		return false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// target returns what the request asks for, in origin form; ok is false if it has none that is safe to pass on.
func target(r *http.Request) (s string, ok bool) {
	s = r.RequestURI
	if s == "" || s[0] != '/' { // absolute form; net/http has taken the host from it
		if r.URL.Host == "" {
			return "", false
		}
		s = r.URL.RequestURI()
	}
	if clean(s) {
		return s, true
	}
	// Some clients send UTF-8 as it is; everyone reads its percent-encoding alike.
	b := make([]byte, 0, len(s)+32)
	for i := range len(s) {
		if c := s[i]; c >= 0x80 {
			const hex = "0123456789ABCDEF"
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	s = string(b)
	return s, clean(s)
}

// framing is how a request's body is told from what follows.
type framing int

const (
	noBody framing = iota
	fixedLength
	chunked
)

// framingOf decides anew how the body is framed, from what the parser understood.
func framingOf(r *http.Request) framing {
	switch {
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		return noBody
	case r.ContentLength > 0:
		return fixedLength
	default:
		return chunked
	}
}

// appendRequest writes the head of the request as the instance gets it: one host, one framing, no header that speaks
// about the connection to the client, and no word of the client about who it is. ok is false if a header is not safe
// to write.
func (x *exchange) appendRequest(b []byte) (out []byte, ok bool) {
	r := x.r
	b = append(append(append(append(b, r.Method...), ' '), x.target...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, x.host...), x.port...)
	b = append(append(b, "\r\nX-Forwarded-For: "...), x.client...)
	b = append(append(append(b, "\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: "...), x.host...), x.port...)
	b = append(append(append(b, "\r\nX-Request-Id: "...), x.id...), "\r\n"...)
	if !x.passed(func(k, v string) { b = append(append(append(append(b, k...), ": "...), v...), "\r\n"...) }) {
		return b, false
	}
	if cert := x.clientCert(); cert != "" {
		b = append(append(append(b, "Client-Cert: "...), cert...), "\r\n"...)
	}
	if x.upgrade {
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	}
	if te := r.Header["Te"]; te != nil && hasToken(te, "trailers") {
		b = append(b, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	switch x.framing {
	case fixedLength:
		b = strconv.AppendInt(append(b, "Content-Length: "...), r.ContentLength, 10)
		b = append(b, "\r\n"...)
	case chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendTrailerNames(b, r.Trailer)
	case noBody:
		if r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH" {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	}
	if x.expects {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	return append(b, "\r\n"...), true
}

// passed calls f with each header of the client's that an instance gets as it is. It returns false if one is not safe to write.
func (x *exchange) passed(f func(k, v string)) bool {
	gone := connectionTokens(x.r.Header)
	for k, values := range x.r.Header {
		if ownHeader(k) || gone != nil && slices.ContainsFunc(gone, func(t string) bool { return strings.EqualFold(t, k) }) {
			continue
		}
		if !plainName(k) {
			continue
		}
		for _, v := range values {
			if k == "Cookie" {
				if v = withoutPass(v); v == "" {
					continue
				}
			}
			if strings.IndexByte(v, '\n') >= 0 || strings.IndexByte(v, '\r') >= 0 || strings.IndexByte(v, 0) >= 0 {
				return false
			}
			if k == "If-Match" {
				v = strong(v)
			}
			f(k, v)
		}
	}
	return true
}

// strong takes back what compression made of tags of answers: one that is weak matches nothing here (RFC 9110 §13.1.1), so nobody could change what they got compressed.
func strong(tags string) string {
	if !strings.Contains(tags, "W/") {
		return tags
	}
	list := strings.Split(tags, ",")
	for i, t := range list {
		list[i] = strings.TrimPrefix(strings.TrimSpace(t), "W/")
	}
	return strings.Join(list, ", ")
}

// ownHeader says that a header, in canonical form, is never copied from the client: it is about the connection, or the
// edge writes it itself, or it would let a client speak for the edge.
func ownHeader(k string) bool {
	switch k {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings", "Content-Length", "Host", "Expect", "Proxy",
		"Forwarded", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
		"X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-Prefix", "X-Forwarded-By", "X-Scheme",
		"X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Client-Ip",
		"Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", "X-Client-Cert", "X-Client-Verify", "X-Client-Dn",
		"X-Request-Id", "X-Original-Url", "X-Rewrite-Url", "X-Original-Host":
		return true
	}
	return strings.HasPrefix(k, "X-Ssl-") || strings.HasPrefix(k, "Ssl-") // as servers before have told of certificates
}

// connectionTokens lists the headers that the sender declared to be about this connection only; nil for the common
// case of none.
func connectionTokens(h http.Header) []string {
	values := h["Connection"]
	if values == nil {
		return nil
	}
	var tokens []string
	for _, v := range values {
		for v != "" {
			var t string
			t, v, _ = strings.Cut(v, ",")
			if t = strings.TrimSpace(t); t != "" && !strings.EqualFold(t, "keep-alive") && !strings.EqualFold(t, "close") {
				tokens = append(tokens, t)
			}
		}
	}
	return tokens
}

// hasToken looks for a token in a comma-separated header; parameters behind ";" do not count.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for v != "" {
			var t string
			t, v, _ = strings.Cut(v, ",")
			t, _, _ = strings.Cut(t, ";")
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// trailerAllowed says that a field may come behind a body: one that frames or routes must not.
func trailerAllowed(k string) bool {
	switch k {
	case "Content-Encoding", "Content-Type", "Content-Range", "Authorization", "Cookie", "Set-Cookie", "Cache-Control",
		"Www-Authenticate":
		return false
	}
	return !ownHeader(k) && plainName(k)
}

// plainName says that a header's name has letters, digits and "-" only. Others are legal and dropped, as nginx does:
// to CGI and WSGI "X_Forwarded_For" is the same as "X-Forwarded-For", and parsers differ over the rest.
func plainName(k string) bool {
	for i := range len(k) {
		if c := k[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func appendTrailerNames(b []byte, trailer http.Header) []byte {
	first := true
	for k := range trailer {
		if !trailerAllowed(k) {
			continue
		}
		if first {
			b = append(b, "Trailer: "...)
		} else {
			b = append(b, ", "...)
		}
		b, first = append(b, k...), false
	}
	if !first {
		b = append(b, "\r\n"...)
	}
	return b
}

// appendTrailer writes the fields behind a chunked body and the line that ends it.
func appendTrailer(b []byte, trailer http.Header) []byte {
	for k, values := range trailer {
		if !trailerAllowed(k) {
			continue
		}
		for _, v := range values {
			if !strings.ContainsAny(v, "\r\n\x00") {
				b = append(append(append(append(b, k...), ": "...), v...), "\r\n"...)
			}
		}
	}
	return append(b, "\r\n"...)
}

// wantsWebSocket says whether the client asks to leave HTTP for the WebSocket protocol. Nothing else is passed on: an
// upgrade to h2c would be a tunnel past every rule of the edge.
func wantsWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Method == "GET" && r.Header["Upgrade"] != nil && hasToken(r.Header["Upgrade"], "websocket") &&
		hasToken(r.Header["Connection"], "upgrade") && framingOf(r) == noBody
}

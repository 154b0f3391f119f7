package edge

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

// scriptlessMost bounds pages of which it is looked whether they have a script: as much as is read ahead of a connection.
const scriptlessMost = 4 << 10

// scriptlessPolicy is for pages that have no script and no plug-in: so none is to run in them, should somebody get one in.
const scriptlessPolicy = "script-src 'none'; object-src 'none'; " + frameOwn

var scriptlessOnly = []string{scriptlessPolicy}

// scriptless waits for the whole of a small page and tells whether it has neither scripts nor plug-ins. Of one that the firewall has read already it is not known.
func (x *exchange) scriptless(resp *http.Response) bool {
	n := resp.ContentLength
	if x.conn == nil || x.replay || n <= 0 || n > scriptlessMost || resp.Header["Content-Encoding"] != nil || x.r.Method != "GET" || !plainPage(resp.Header["Content-Type"]) {
		return false
	}
	if int64(x.conn.r.Buffered()) < n {
		_ = x.conn.SetReadDeadline(time.Now().Add(holdTime))
	}
	body, err := x.conn.r.Peek(int(n))
	return err == nil && hasNoScript(body)
}

// plainPage tells of HTML that browsers read as it is looked at here: in UTF-8, or a charset that has its letters.
func plainPage(types []string) bool {
	if len(types) != 1 {
		return false
	}
	kind, params, _ := strings.Cut(types[0], ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "text/html") {
		return false
	}
	params = strings.ToLower(strings.ReplaceAll(params, " ", ""))
	return params == "" || params == "charset=utf-8" || params == `charset="utf-8"`
}

// hasNoScript tells whether a page has nothing that browsers run: no element for it, no attribute of an event, no such URL, no frame that has its page from an attribute. Where it
// is not sure, it has.
func hasNoScript(page []byte) bool {
	if bytes.HasPrefix(page, []byte{0xfe, 0xff}) || bytes.HasPrefix(page, []byte{0xff, 0xfe}) || bytes.IndexByte(page, 0) >= 0 {
		return false // of another encoding, whatever the header says
	}
	for i, c := range page {
		rest := page[i:]
		switch c {
		case '<':
			for _, tag := range []string{"script", "object", "embed", "applet", "iframe", "frame", "portal"} {
				if startsFold(rest[1:], tag) {
					return false
				}
			}
		case ':':
			if i > 0 && (startsFold(rest[1:], "script")) {
				return false // of a name space
			}
			if n := len("javascript"); i >= n && startsFold(page[i-n:], "javascript") {
				return false
			}
		case 'o', 'O':
			if i > 0 && strings.IndexByte(" \t\r\n\f/'\"`", page[i-1]) >= 0 && eventAttribute(rest) {
				return false
			}
		}
	}
	return true
}

// eventAttribute tells of "onclick=", "onload =".
func eventAttribute(b []byte) bool {
	if len(b) < 3 || lowerByte(b[1]) != 'n' {
		return false
	}
	i := 2
	for i < len(b) && lowerByte(b[i]) >= 'a' && lowerByte(b[i]) <= 'z' {
		i++
	}
	for i < len(b) && strings.IndexByte(" \t\r\n\f", b[i]) >= 0 {
		i++
	}
	return i < len(b) && b[i] == '='
}

func startsFold(b []byte, s string) bool {
	return len(b) >= len(s) && strings.EqualFold(string(b[:len(s)]), s)
}

func lowerByte(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

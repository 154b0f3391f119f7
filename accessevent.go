package bulwark

import (
	"bytes"
	"net/netip"
	"time"
)

// ClientsKnown is for how long the whole address of a client is kept in the access log. After that only its network is: the first 24 bits of an IPv4
// address, the first 48 of an IPv6 one.
const ClientsKnown = 7 * 24 * time.Hour

// CutClient returns what is kept of a client's address after ClientsKnown.
func CutClient(client string) string {
	a, err := netip.ParseAddr(client)
	if err != nil {
		return ""
	}
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.Addr().String()
}

// ForgetClient cuts the client's address in a line of the access log that is older than ClientsKnown, in place: the line keeps its length, and stays JSON. It
// tells whether it changed anything.
func ForgetClient(line []byte, now time.Time) bool {
	const before, form, mark = `{"time":"`, "2006-01-02T15:04:05.000Z", `,"client":"`
	rest, ok := bytes.CutPrefix(line, []byte(before))
	if !ok || len(rest) < len(form) {
		return false
	}
	at, err := time.Parse(form, string(rest[:len(form)]))
	if err != nil || now.Sub(at) < ClientsKnown {
		return false
	}
	_, rest, ok = bytes.Cut(rest, []byte(mark)) // what clients send has its quotes escaped
	n := bytes.IndexByte(rest, '"')
	if !ok || n < 0 {
		return false
	}
	cut := CutClient(string(rest[:n]))
	if len(cut) > n {
		cut = ""
	}
	if cut == string(rest[:n]) {
		return false
	}
	copy(rest, cut+`"`+string(bytes.Repeat([]byte{' '}, n-len(cut))))
	return true
}

package bulwark

import (
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"
)

// MaintenanceMode says whether the edge answers in an app's place.
type MaintenanceMode string

// The modes.
const (
	MaintenanceOff MaintenanceMode = "off"
	MaintenanceOn  MaintenanceMode = "on"
)

// ParseMaintenanceMode checks s.
func ParseMaintenanceMode(s string) (MaintenanceMode, error) {
	switch m := MaintenanceMode(s); m {
	case MaintenanceOff, MaintenanceOn:
		return m, nil
	}
	return "", Invalid(fmt.Sprintf("Maintenance cannot be %s.", quote(s)), "It is on or off.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseMaintenanceMode.
func (m *MaintenanceMode) UnmarshalText(b []byte) error { return parseInto(m, b, ParseMaintenanceMode) }

// PageName names a page of the edge's that an app's people can give another form.
type PageName string

// The pages.
const (
	PageError       PageName = "error"       // the app gives no proper answer, none in time, or does not run: 502, 503, 504
	PageMaintenance PageName = "maintenance" // see MaintenanceOn
)

// ParsePageName checks s.
func ParsePageName(s string) (PageName, error) {
	switch n := PageName(s); n {
	case PageError, PageMaintenance:
		return n, nil
	}
	return "", Invalid(fmt.Sprintf("There is no page %s.", quote(s)), "The pages are error and maintenance.")
}

// String returns the name.
func (n PageName) String() string { return string(n) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParsePageName.
func (n *PageName) UnmarshalText(b []byte) error { return parseInto(n, b, ParsePageName) }

// MaxPage bounds a page in bytes: it is kept by every edge.
const MaxPage = 24 << 10

// PageID is what stands in a page for the number of the request, by which its people find it in their log.
const PageID = "{{request}}"

// pages returns those after a change; an empty one goes.
func pages(have, change map[PageName]string) (map[PageName]string, error) {
	if len(change) == 0 {
		return have, nil
	}
	out := maps.Clone(have)
	if out == nil {
		out = map[PageName]string{}
	}
	for n, text := range change {
		switch {
		case len(text) > MaxPage:
			return nil, Fail(KindTooLarge, fmt.Sprintf("The page %s has %d bytes; at most %d are taken.", n, len(text), MaxPage), "It cannot load anything; make its pictures smaller.", nil)
		case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
			return nil, Invalid(fmt.Sprintf("The page %s is not text in UTF-8.", n), "Give a file of HTML.")
		case text == "":
			delete(out, n)
		default:
			out[n] = text
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

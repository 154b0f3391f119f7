package edge

import (
	"fmt"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// decodeTable reads and checks a table.
func decodeTable(b []byte) (bulwark.Table, error) {
	var t bulwark.Table
	if err := fdpass.Decode(b, &t); err != nil {
		return bulwark.Table{}, err
	}
	return t, checkTable(t)
}

// decodePatch reads a change; it is checked when it is applied.
func decodePatch(b []byte) (bulwark.TablePatch, error) {
	var p bulwark.TablePatch
	err := fdpass.Decode(b, &p)
	return p, err
}

// checkTable checks what the types alone do not: that routes lead somewhere, that an instance belongs to one app.
func checkTable(t bulwark.Table) error {
	for h, id := range t.Routes {
		if _, ok := t.Apps[id]; !ok || h == "" {
			return bulwark.Invalid(fmt.Sprintf("The route of %q leads to an app that the table does not have.", h), "Send the app with it.")
		}
	}
	owner := make(map[bulwark.InstanceID]struct{}, len(t.Apps))
	for id, up := range t.Apps {
		if id == "" || up.Name == "" {
			return bulwark.Invalid("An app in the table has no id or no name.", "")
		}
		if up.FirstByte < 0 || up.Idle < 0 || up.Queue < 0 || up.Queue > 100_000 {
			return bulwark.Invalid(fmt.Sprintf("The app %s has a time or a queue that is out of range.", up.Name), "")
		}
		for _, i := range up.Instances {
			if _, twice := owner[i]; twice || i == "" {
				return bulwark.Invalid(fmt.Sprintf("An instance of the app %s is named twice, or has no name.", up.Name), "")
			}
			owner[i] = struct{}{}
		}
	}
	return nil
}

// encodeTable writes t as JSON. It is written by hand since it happens on every swap, with ten thousand hosts too:
// ids and names consist of characters that need no escaping in JSON, which their types promise.
func encodeTable(t bulwark.Table) []byte {
	b := make([]byte, 0, 64+80*len(t.Routes)+160*len(t.Apps))
	b = append(b, `{"generation":`...)
	b = strconv.AppendUint(b, t.Generation, 10)
	b = append(b, `,"routes":{`...)
	first := true
	for h, id := range t.Routes {
		b = key(b, &first, string(h))
		b = quoted(b, string(id))
	}
	b = append(b, `},"apps":{`...)
	first = true
	for id, up := range t.Apps {
		b = key(b, &first, string(id))
		b = append(b, `{"name":`...)
		b = quoted(b, string(up.Name))
		b = append(b, `,"instances":[`...)
		for n, i := range up.Instances {
			if n > 0 {
				b = append(b, ',')
			}
			b = quoted(b, string(i))
		}
		b = append(b, ']')
		b = duration(b, `,"first_byte":`, up.FirstByte)
		b = duration(b, `,"idle":`, up.Idle)
		if up.Queue != 0 {
			b = append(b, `,"queue":`...)
			b = strconv.AppendInt(b, int64(up.Queue), 10)
		}
		b = append(b, '}')
	}
	return append(b, `}}`...)
}

func key(b []byte, first *bool, k string) []byte {
	if !*first {
		b = append(b, ',')
	}
	*first = false
	return append(quoted(b, k), ':')
}

func quoted(b []byte, s string) []byte {
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func duration(b []byte, key string, d bulwark.Duration) []byte {
	if d == 0 {
		return b
	}
	return quoted(append(b, key...), time.Duration(d).String())
}

package api

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/bulwark-paas/bulwark"
)

func writeLine(w io.Writer, flush http.Flusher, v any) error {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return err
	}
	if flush != nil {
		flush.Flush()
	}
	return nil
}

// Shape makes huma's own complaints (a body that does not fit its schema) look like every other error. It sets a variable
// of the library, so the server's wiring calls it once.
func Shape() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		var details []string
		for _, e := range errs {
			details = append(details, e.Error())
		}
		kind := bulwark.KindInvalid
		switch status {
		case http.StatusRequestEntityTooLarge:
			kind = bulwark.KindTooLarge
		case http.StatusNotFound:
			kind = bulwark.KindNotFound
		case http.StatusInternalServerError:
			kind = bulwark.KindInternal
		}
		return &problem{body: body{Kind: kind, Message: "The request is not valid: " + msg + ".", Hint: strings.Join(details, "; ")}, status: status}
	}
}

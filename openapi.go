package bulwark

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Schema is an OpenAPI document, as JSON text: what requests an app takes. Empty: nobody said. Its String names it, and does not show it.
type Schema string

// SchemaOff in a ShieldChange takes it away.
const SchemaOff Schema = "off"

// MaxSchema is how many bytes a Schema may have.
const MaxSchema = 96 << 10

// maxSchemaSigned bounds a Schema as it stands inside a statement, with quotes escaped: in base64 it has to fit what the node takes for one.
const maxSchemaSigned = 160 << 10

// ParseSchema checks what can be known without reading the document as OpenAPI: that is for the command line, which says what is wrong, and for the edge.
func ParseSchema(s string) (Schema, error) {
	if len(s) > MaxSchema {
		return "", tooLargeSchema()
	}
	if signed, err := json.Marshal(s); err != nil || len(signed) > maxSchemaSigned {
		return "", tooLargeSchema()
	}
	var head schemaHead
	if err := json.Unmarshal([]byte(s), &head); err != nil || !utf8.ValidString(s) {
		return "", Fail(KindInvalid, "The schema is no OpenAPI document in JSON.", "Give a document of OpenAPI 3.0 or 3.1.", err)
	}
	if !strings.HasPrefix(string(head.OpenAPI), "3.0") && !strings.HasPrefix(string(head.OpenAPI), "3.1") {
		return "", Invalid(fmt.Sprintf("The schema is of the version %s of OpenAPI.", quote(string(head.OpenAPI))), "Give a document of OpenAPI 3.0 or 3.1.")
	}
	if len(head.Paths) == 0 {
		return "", Invalid("The schema has no paths.", "Nothing would fit it. To take it away, say schema off.")
	}
	return Schema(s), nil
}

func tooLargeSchema() error {
	return Fail(KindTooLarge, fmt.Sprintf("The schema takes more than %d KB.", MaxSchema>>10), "Leave out examples, descriptions, and what answers look like: requests alone are checked.", nil)
}

// schemaHead is what is read of a document to name it.
type schemaHead struct {
	OpenAPI loose `json:"openapi"`
	Info    struct {
		Title   loose `json:"title"`
		Version loose `json:"version"`
	} `json:"info"`
	Paths map[string]json.RawMessage `json:"paths"`
}

// loose is a text, or the number that YAML makes of one without quotes: whoever reads all of the document says better what is wrong with that.
type loose string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	*l = loose(s)
	return nil
}

// Paths is how many paths the document has.
func (s Schema) Paths() int {
	var head schemaHead
	_ = json.Unmarshal([]byte(s), &head) // of one that cannot be read there are none
	return len(head.Paths)
}

// String is the document's title and version.
func (s Schema) String() string {
	if s == SchemaOff || s == "" {
		return string(s)
	}
	var head schemaHead
	if json.Unmarshal([]byte(s), &head) != nil {
		return "none that can be read"
	}
	return strings.TrimSpace(shown(string(head.Info.Title)) + " " + shown(string(head.Info.Version)))
}

// shown is a piece of a document as it stands in one line of a record.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// with is the schema after a change.
func (s Schema) with(c Schema) (Schema, error) {
	switch c {
	case "":
		return s, nil
	case SchemaOff:
		return "", nil
	}
	return ParseSchema(string(c))
}

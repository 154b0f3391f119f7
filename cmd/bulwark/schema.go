package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/schema"
)

// maxSchemaFile bounds what is read of a document: YAML, and JSON with spaces, take more than what is signed for.
const maxSchemaFile = 4 << 20

// readSchema reads an OpenAPI document and checks it by what the edge checks requests with, so that what cannot be used is told before it is signed for.
func readSchema(file string) (bulwark.Schema, error) {
	if file == string(bulwark.SchemaOff) {
		return bulwark.SchemaOff, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s cannot be read.", quote(file)), "Give an OpenAPI document in YAML or JSON, or off.", err)
	}
	if len(b) > maxSchemaFile {
		return "", bulwark.Invalid(fmt.Sprintf("The file %s is larger than %d MB.", quote(file), maxSchemaFile>>20), "")
	}
	if !json.Valid(b) {
		if b, err = yaml.YAMLToJSON(b); err != nil {
			return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s is neither JSON nor YAML.", quote(file)), "Give an OpenAPI document in YAML or JSON, or off.", err)
		}
	}
	var text bytes.Buffer
	if err := json.Compact(&text, b); err != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s holds what JSON cannot say.", quote(file)), "", err)
	}
	s := bulwark.Schema(text.String())
	if _, err := schema.Compile(s); err != nil {
		return "", err
	}
	return s, nil
}

func schemaWords(s bulwark.Shield) string {
	if s.Schema == "" {
		return ""
	}
	words := fmt.Sprintf("%s, %d paths", s.Schema, s.Schema.Paths())
	if s.WAF == bulwark.WAFOff {
		words += ", not looked at while the firewall is off"
	}
	return words
}

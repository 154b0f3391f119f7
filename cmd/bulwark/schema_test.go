package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestReadSchema(t *testing.T) {
	file := filepath.Join(t.TempDir(), "openapi")
	read := func(text string) (bulwark.Schema, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readSchema(file)
	}
	const doc = `openapi: 3.0.3
info: {title: Shop, version: "1.10"}
paths:
  /:
    get:
      parameters:
        - &limit {name: limit, in: query, schema: {type: integer, default: 010}}
      responses:
        200: {description: ok}
  /b:
    get:
      parameters: [*limit]
      responses:
        "200": {description: ok}
`
	s, err := read(doc)
	if err != nil {
		t.Fatal(err)
	}
	if got := schemaWords(bulwark.Shield{Schema: s}); got != "Shop 1.10, 2 paths" {
		t.Error(got)
	}
	again, err := read(string(s))
	if err != nil || string(again) != string(s) {
		t.Error("it is not what it was as JSON:", err)
	}
	if s, err := readSchema("off"); err != nil || s != bulwark.SchemaOff {
		t.Error(s, err)
	}
	for text, want := range map[string]string{
		"\x00": "what JSON cannot say", "a: [": "neither JSON nor YAML", "hello": "no OpenAPI document", "openapi: 2.0.0\npaths: {/: {}}": "version",
		strings.Replace(doc, "type: integer", "type: number of sorts", 1):                   "number of sorts",
		strings.Replace(doc, "schema: {type: integer", "schema: {$ref: 'other.yaml#/x'", 1): "leads out of the document",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := read(strings.Replace(doc, `"1.10"`, "1.10", 1)); err == nil || !strings.Contains(err.Error(), "version") || strings.Contains(err.Error(), "no OpenAPI document") {
		t.Error("a version that is a number:", err)
	}
	if _, err := readSchema(file + "none"); err == nil {
		t.Error("no file is taken for one")
	}
}

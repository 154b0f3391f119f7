// Package lint holds what the linters must find: a bypass of each protection, planted (LIB-1). It promises nothing else, and nothing
// imports it.
package lint

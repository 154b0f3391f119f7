// Package bulwark holds the nouns of the platform: their typed names and ids, what one process tells another about
// them, and the kinds of error. Every other package speaks in these types.
//
// It promises that a value of one of its types is well formed: names and ids come into being through their Parse
// functions only (decoding JSON calls them), so what is trusted inside was checked at the edge. It imports the
// standard library alone, does no input or output and keeps no state; there is nothing in it to own.
package bulwark

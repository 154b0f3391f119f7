package bulwark

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is; the API turns it into a status code, the CLI into an exit code.
type Kind string

// The kinds of error. An error with no kind is KindInternal and its text never leaves the server.
const (
	KindInvalid      Kind = "invalid"      // the input is wrong; the same input fails again
	KindUnauthorized Kind = "unauthorized" // nobody is signed in
	KindForbidden    Kind = "forbidden"    // somebody is, and may not; also a statement that does not verify
	KindNotFound     Kind = "not_found"    // there is none, or its existence is secret
	KindConflict     Kind = "conflict"     // the state changed, or something else is under way
	KindStale        Kind = "stale"        // sealed to a key that was replaced; the same, sealed to the new one, is taken
	KindTooLarge     Kind = "too_large"    // a limit on size
	KindBusy         Kind = "busy"         // a limit on rate or number; try again
	KindUnavailable  Kind = "unavailable"  // a part of the platform is away; try again
	KindFailed       Kind = "failed"       // the user's own code failed: a build, a release command, a health check
	KindCanceled     Kind = "canceled"     // somebody stopped it
	KindInternal     Kind = "internal"     // a fault of ours
)

// Error is a failure as the user is told it: one sentence of what is wrong, one of what to do next, and the cause for
// the operator's log.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`        // a full sentence, shown to the user
	Hint    string `json:"hint,omitempty"` // a full sentence: what to do next
	Cause   error  `json:"-"`              // never shown to the user
}

// Error returns the message, the hint and the cause; it is meant for logs.
func (e *Error) Error() string {
	s := e.Message
	if e.Hint != "" {
		s += " " + e.Hint
	}
	if e.Cause != nil {
		s += " (" + e.Cause.Error() + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Fail makes an error of a kind from a sentence, a hint (may be empty) and a cause (may be nil).
func Fail(kind Kind, message, hint string, cause error) error {
	return &Error{Kind: kind, Message: message, Hint: hint, Cause: cause}
}

// Invalid is Fail for wrong input.
func Invalid(message, hint string) error { return Fail(KindInvalid, message, hint, nil) }

// Failf is Fail with a formatted sentence, no hint and no cause.
func Failf(kind Kind, format string, args ...any) error {
	return Fail(kind, fmt.Sprintf(format, args...), "", nil)
}

// NoSuchApp is what everybody is told of an app that is not there, and of one of which they may know nothing.
func NoSuchApp() error {
	return Fail(KindNotFound, "There is no such app.", "See bulwark apps list.", nil)
}

// WasDestroyed is what those who may look at an app are told of one that was destroyed and can still be brought back.
func WasDestroyed(name AppName) error {
	return Fail(KindNotFound, fmt.Sprintf("App %s was destroyed.", name),
		fmt.Sprintf("An owner can bring it back while its grace lasts: bulwark apps restore %s. See bulwark apps list for until when.", name), nil)
}

// KindOf returns the kind of the first *Error in err's chain, KindInternal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// Package pushnonce checks the nonce that git puts into a push certificate. It promises that a nonce that passes was
// made by "git receive-pack" with the given seed, for the given repository, at a time near now: so a certificate cannot
// be replayed after its seed was used up, nor be carried to another app.
//
// How git makes it (builtin/receive-pack.c, prepare_push_cert_nonce; tests of package gitssh compare it with git itself):
//
//	nonce = stamp "-" hex(HMAC-SHA1(key = path ":" stamp, message = seed))
//
// stamp is the decimal Unix time at which receive-pack was started, seed is receive.certNonceSeed byte for byte, and
// path is receive-pack's argument exactly as it was given, before git resolves it against the working directory. The
// SSH server starts it in the directory of repositories with the argument [Path], so whoever knows the app's id knows
// the path.
//
// The secret is the message here and the public part is the key, the other way round than one expects. It is sound all
// the same if the seed cannot be guessed: the value for another stamp or path cannot be had without it. SHA-1 is git's
// choice; that it resists collisions is not needed.
//
// The node is the judge here: it hands out a seed for one push and forgets it afterwards. The server process sees the
// seed, so whoever owns it can make nonces for the pushes that are under way; it still lacks the person's signature.
package pushnonce

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Path returns the path of an app's repository as the nonce of a push to it covers it.
func Path(app bulwark.AppID) string { return string(app) + ".git" }

// Make returns the nonce that git makes from a seed, for a path, at a time.
func Make(seed, path string, at time.Time) string { return makeNonce(seed, path, at.Unix()) }

func makeNonce(seed, path string, stamp int64) string {
	mac := hmac.New(sha1.New, fmt.Appendf(nil, "%s:%d", path, stamp))
	mac.Write([]byte(seed))
	return strconv.FormatInt(stamp, 10) + "-" + hex.EncodeToString(mac.Sum(nil))
}

// CheckNonce returns nil if git made nonce from seed for path at most slop before now, or after it if the clocks of the
// two processes differ. The stamp is when the push began, so slop must be as long as sending the code may take. An
// error is of KindForbidden.
func CheckNonce(nonce, seed, path string, now time.Time, slop time.Duration) error {
	if seed == "" || path == "" {
		// With an empty seed, everybody could make the nonce.
		return refuse("has no seed to be checked against")
	}
	digits, _, ok := strings.Cut(nonce, "-")
	if !ok || len(digits) == 0 || len(digits) > 12 || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return refuse("is not well formed")
	}
	stamp, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return refuse("is not well formed")
	}
	if !hmac.Equal([]byte(makeNonce(seed, path, stamp)), []byte(nonce)) {
		return refuse("was not made for this push")
	}
	if age := now.Sub(time.Unix(stamp, 0)); age > slop || age < -slop {
		return refuse("is too old or from the future")
	}
	return nil
}

func refuse(why string) error {
	return bulwark.Fail(bulwark.KindForbidden, "The nonce of the push certificate "+why+".", "Push again.", nil)
}

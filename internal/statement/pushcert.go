package statement

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
)

// PushCertificate is git's signed push (gitformat-signature(5), "push certificate"): a person's word that a ref of a
// repository shall go from one commit to another. The signature is SSHSIG in the namespace "git".
type PushCertificate struct {
	Pusher string
	Pushee string // the address that was pushed to
	App    bulwark.AppName
	Nonce  string
	Old    bulwark.Commit
	New    bulwark.Commit
	Ref    string
	Signer ssh.PublicKey // the key that signed, verified
}

// maxCertificate bounds a push certificate in bytes; one of a single ref has less than 2 KiB.
const maxCertificate = 64 << 10

const beginSignature = "-----BEGIN SSH SIGNATURE-----\n"

// ParsePushCertificate verifies the signature of a certificate and reads it. Whether the key may push to the app, and
// whether the nonce is the node's, is for the ledger to say.
func ParsePushCertificate(raw []byte) (*PushCertificate, error) {
	if len(raw) > maxCertificate {
		return nil, certInvalid("it is too long")
	}
	at := bytes.Index(raw, []byte(beginSignature))
	if at < 0 {
		return nil, certInvalid("it has no SSH signature; set gpg.format to ssh")
	}
	payload := raw[:at]
	sig, err := sshsig.Unarmor(raw[at:])
	if err != nil {
		return nil, certInvalid("its signature cannot be read")
	}
	if err := sshsig.Verify(bytes.NewReader(payload), sig, sig.PublicKey, sig.HashAlgorithm, "git"); err != nil {
		return nil, forged(err)
	}
	c, err := parseCertificate(string(payload))
	if err != nil {
		return nil, err
	}
	c.Signer = sig.PublicKey
	return c, nil
}

// parseCertificate reads the signed part: headers, an empty line, one command. Everything is exact: a certificate that
// git would not have written is refused, so that two readers cannot understand it differently.
func parseCertificate(payload string) (*PushCertificate, error) {
	head, commands, ok := strings.Cut(payload, "\n\n")
	if !ok {
		return nil, certInvalid("it has no commands")
	}
	c := &PushCertificate{}
	lines := strings.Split(head, "\n")
	if lines[0] != "certificate version 0.1" {
		return nil, certInvalid("its version is not 0.1")
	}
	fields := map[string]*string{"pusher": &c.Pusher, "pushee": &c.Pushee, "nonce": &c.Nonce}
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, " ")
		dst, known := fields[name]
		if !known || value == "" {
			return nil, certInvalid(fmt.Sprintf("it has the line %q", l))
		}
		*dst = value
		delete(fields, name) // a second one of the same name is unknown
	}
	if c.Pushee == "" || c.Nonce == "" {
		return nil, certInvalid("it names no address or no nonce")
	}
	command, rest, _ := strings.Cut(commands, "\n")
	if rest != "" {
		return nil, certInvalid("it changes several refs")
	}
	words := strings.Split(command, " ")
	if len(words) != 3 || !strings.HasPrefix(words[2], "refs/heads/") {
		return nil, certInvalid("its command is not \"old new refs/heads/name\"")
	}
	var err error
	if c.Old, err = bulwark.ParseCommit(words[0]); err != nil {
		return nil, err
	}
	if c.New, err = bulwark.ParseCommit(words[1]); err != nil {
		return nil, err
	}
	c.Ref = words[2]
	c.App, err = pushedApp(c.Pushee)
	return c, err
}

// pushedApp returns the app that a git address names: its path is "/NAME.git" or "/NAME".
func pushedApp(pushee string) (bulwark.AppName, error) {
	path := ""
	if u, err := url.Parse(pushee); err == nil && u.Scheme == "ssh" {
		path = u.Path
	} else if _, after, ok := strings.Cut(pushee, ":"); ok { // scp form: git@host:shop.git
		path = after
	}
	return bulwark.ParseAppName(strings.TrimSuffix(strings.Trim(path, "/"), ".git"))
}

func certInvalid(why string) error {
	return bulwark.Invalid("The push certificate is not valid: "+why+".", "Push again with git push, as bulwark apps create has set it up.")
}

package statement

import (
	"bytes"
	"crypto/ed25519"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
)

// KeyProofNamespace is the namespace (PROTOCOL.sshsig) of an SSH key's signature by which it lets itself be registered.
const KeyProofNamespace = "bulwark-key"

// maxKeyProof bounds such a signature in bytes; one of an RSA key of 8192 bits has less than 4 KiB.
const maxKeyProof = 16 << 10

// SSHKey is a public SSH key with its own word that it may be registered.
type SSHKey struct {
	Line string `json:"line"` // as in authorized_keys
	// Proof is the key's SSHSIG over KeyProof, armored, in KeyProofNamespace: public keys are public, and who registers another's
	// first would have what that one pushes in their own name, and keep them from pushing in theirs.
	Proof string `json:"proof"`
}

// KeyProof is what a key signs to be registered: for this node, by a statement that signer signs.
func KeyProof(node, signer, key string) []byte {
	return fmt.Appendf(nil, "bulwark key v1\n%s\n%s\n%s\n", node, signer, key)
}

// Verify reads the key, if it signed to be registered by a statement of signer's at node.
func (k SSHKey) Verify(node, signer string) (ssh.PublicKey, error) {
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Line))
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The SSH key cannot be read.", "Give the line of a .pub file, such as ~/.ssh/id_ed25519.pub.", err)
	}
	bad := func(err error) (ssh.PublicKey, error) {
		return nil, bulwark.Fail(bulwark.KindForbidden, "The SSH key did not sign that it is to be registered by you.",
			"Run the command again, on a machine that has its private half.", err)
	}
	if len(k.Proof) > maxKeyProof {
		return bad(nil)
	}
	sig, err := sshsig.Unarmor([]byte(k.Proof))
	if err != nil {
		return bad(err)
	}
	text := KeyProof(node, signer, ssh.FingerprintSHA256(pub))
	if err := sshsig.Verify(bytes.NewReader(text), sig, pub, sig.HashAlgorithm, KeyProofNamespace); err != nil {
		return bad(err)
	}
	return pub, nil
}

// VerifyDevice returns the device key der, if it signed to be registered by a statement of signer's at node.
func VerifyDevice(der, proof []byte, node, signer string) (Key, error) {
	k, err := ParseKey(der)
	if err != nil {
		return Key{}, err
	}
	if !ed25519.Verify(k.Ed25519, KeyProof(node, signer, k.Fingerprint), proof) {
		return Key{}, bulwark.Fail(bulwark.KindForbidden, "The device key did not sign that it is to be registered by you.", "Sign in with bulwark login on that device.", nil)
	}
	return k, nil
}

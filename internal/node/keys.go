package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
)

// keyring holds the site's keys: the node's signing key, and the private keys of the projects. They lie in the node's
// own directory, which root alone can read. Project keys are also wrapped for the recovery key, whose private half the
// operator keeps elsewhere: without it, a lost machine would take every config value with it.
type keyring struct {
	dir      string
	node     ed25519.PrivateKey
	projects *projectkeys.Ring
}

// openKeys reads the keys, or makes them at the first start. RecoveryFile is where the recovery key's private half is
// put at that one time, for the operator to take away.
func openKeys(dir, recoveryFile string) (*keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &keyring{dir: dir}
	if err := k.openNodeKey(); err != nil {
		return nil, err
	}
	to, err := k.recovery(recoveryFile)
	if err != nil {
		return nil, err
	}
	k.projects = projectkeys.Open(dir, to)
	return k, nil
}

func (k *keyring) openNodeKey() error {
	path := filepath.Join(k.dir, "node.pem")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A lost key must not be replaced in silence: a new one would disown the whole ledger.
		if _, err := os.Stat(filepath.Join(filepath.Dir(k.dir), "ledger.db")); err == nil {
			return bulwark.Fail(bulwark.KindUnavailable, "The node's signing key is missing while its ledger is there.",
				"Put "+path+" back from a backup; nothing was changed.", nil)
		}
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		k.node = key
		return atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("node: %s is not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("node: %s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("node: %s is not an Ed25519 key", path)
	}
	k.node = ed
	return nil
}

// recovery returns the public half of the recovery key.
func (k *keyring) recovery(privateFile string) (age.Recipient, error) {
	path := filepath.Join(k.dir, "recovery.pub")
	b, err := os.ReadFile(path)
	if err == nil {
		return age.ParseHybridRecipient(strings.TrimSpace(string(b)))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	text := "# Bulwark recovery key. Move this file off the machine and keep it safe: with it and a backup,\n" +
		"# config values can be read again when this machine is lost.\n" + id.String() + "\n"
	if err := atomicfile.Write(privateFile, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return id.Recipient(), atomicfile.Write(path, []byte(id.Recipient().String()+"\n"), 0o644)
}

package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// accountTry is how long it is waited before an authority is asked again to take another key.
const accountTry = 24 * time.Hour

// Where an account is kept: its key first, so that a registration which was cut off is found again by the authority, and the key that is to follow, so that a
// change of keys which was cut off is, too.
func (i *issuer) keyAt() string     { return path.Join("accounts", i.key, "account.key") }
func (i *issuer) nextKeyAt() string { return path.Join("accounts", i.key, "account.next.key") }
func (i *issuer) accountAt() string { return path.Join("accounts", i.key, "account.json") }

// ours is our account with the authority, made if there is none. Its key is replaced by another one when it is old (RFC 8555 §7.3.5): so what somebody once
// read of it is of no use for ever.
func (i *issuer) ours(ctx context.Context) (*acme.Account, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.account == nil {
		if err := i.load(ctx); err != nil {
			return nil, err
		}
	}
	if time.Since(i.keyMade) > i.keyAge && time.Since(i.rolled) > min(accountTry, i.keyAge) {
		i.rolled = time.Now()
		if err := i.roll(ctx); err != nil {
			i.unchanged(err)
			i.account = nil // which key it has now is to be found out
			if err := i.load(ctx); err != nil {
				return nil, err
			}
		}
	}
	return i.account, nil
}

// load reads the account, finishes a change of keys that was cut off, or registers. The caller holds mu.
func (i *issuer) load(ctx context.Context) error {
	key, err := i.accountKey(ctx)
	if err != nil {
		return err
	}
	a := acme.Account{PrivateKey: key}
	b, err := i.kept.Load(ctx, i.accountAt())
	if errors.Is(err, fs.ErrNotExist) {
		return i.register(ctx, key)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Location == "" {
		return i.register(ctx, key)
	}
	a.PrivateKey = key
	if err := i.finishRoll(ctx, &a); err != nil {
		return err
	}
	i.account = &a
	return nil
}

// finishRoll finds out which of two keys an authority knows, where a change of keys was cut off.
func (i *issuer) finishRoll(ctx context.Context, a *acme.Account) error {
	next, err := i.readKey(ctx, i.nextKeyAt())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = i.client.GetAccount(ctx, acme.Account{PrivateKey: next})
	p, told := errors.AsType[acme.Problem](err)
	switch {
	case err == nil:
		return i.take(ctx, a, next)
	case told && p.Type == acme.ProblemTypeAccountDoesNotExist:
		return i.kept.Delete(ctx, i.nextKeyAt())
	}
	return err
}

// roll gives the account another key. The caller holds mu.
func (i *issuer) roll(ctx context.Context) error {
	next, text, err := newAccountKey()
	if err != nil {
		return err
	}
	if err := i.kept.Store(ctx, i.nextKeyAt(), text); err != nil {
		return err
	}
	if _, err := i.client.AccountKeyRollover(ctx, *i.account, next); err != nil {
		return err
	}
	return i.take(ctx, i.account, next)
}

// take keeps the key that the authority has taken.
func (i *issuer) take(ctx context.Context, a *acme.Account, key crypto.Signer) error {
	text, err := keyText(key)
	if err != nil {
		return err
	}
	if err := i.kept.Store(ctx, i.keyAt(), text); err != nil {
		return err
	}
	a.PrivateKey, i.keyMade = key, time.Now()
	return i.kept.Delete(ctx, i.nextKeyAt())
}

// register makes the account, or finds it by its key. The caller holds mu.
func (i *issuer) register(ctx context.Context, key crypto.Signer) error {
	a := acme.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if i.email != "" {
		a.Contact = []string{"mailto:" + i.email}
	}
	if e := i.at.EAB; e != nil {
		if err := a.SetExternalAccountBinding(ctx, i.client.Client, acme.EAB{KeyID: e.KeyID, MACKey: e.MACKey}); err != nil {
			return err
		}
	}
	made, err := i.client.NewAccount(ctx, a)
	if err != nil {
		return err
	}
	made.PrivateKey = key
	b, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := i.kept.Store(ctx, i.accountAt(), b); err != nil {
		return err
	}
	i.account = &made
	return nil
}

func (i *issuer) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.account = nil
	_ = i.kept.Delete(context.Background(), i.accountAt()) // the next registration writes over it
}

// accountKey reads the account's key or makes one.
func (i *issuer) accountKey(ctx context.Context) (crypto.Signer, error) {
	key, err := i.readKey(ctx, i.keyAt())
	if errors.Is(err, fs.ErrNotExist) {
		key, text, err := newAccountKey()
		if err != nil {
			return nil, err
		}
		i.keyMade = time.Now()
		return key, i.kept.Store(ctx, i.keyAt(), text)
	}
	if err != nil {
		return nil, err
	}
	info, err := i.kept.Stat(ctx, i.keyAt())
	i.keyMade = info.Modified
	return key, err
}

func (i *issuer) readKey(ctx context.Context, at string) (crypto.Signer, error) {
	b, err := i.kept.Load(ctx, at)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("certs: the account's key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("certs: the account's key cannot sign")
	}
	return signer, nil
}

func newAccountKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := keyText(key)
	return key, text, err
}

func keyText(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// caa is the record by which nobody but this account gets a certificate for a name from this authority, and nobody at all from another one
// (RFC 8659, RFC 8657); empty as long as the account is not known.
func (i *issuer) caa(ctx context.Context) (string, error) {
	i.mu.Lock()
	a := i.account
	if a == nil {
		if b, err := i.kept.Load(ctx, i.accountAt()); err == nil {
			a = &acme.Account{}
			if json.Unmarshal(b, a) != nil {
				a = nil
			}
		}
	}
	i.mu.Unlock()
	if a == nil || a.Location == "" {
		return "", nil
	}
	dir, err := i.client.GetDirectory(ctx)
	if err != nil {
		return "", err
	}
	if dir.Meta == nil || len(dir.Meta.CAAIdentities) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s; accounturi=%s", dir.Meta.CAAIdentities[0], a.Location), nil
}

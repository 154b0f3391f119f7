package main

import (
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// document is what a person signed, as far as it could be read.
type document struct {
	push *statement.PushCertificate
	stmt *statement.Statement
}

// person checks that a document is what cause says: signed by that key, for this app.
func (e evidence) person(out *chain, name string, raw []byte, cause statement.Cause, r *statement.Release, nodeErr error) document {
	if nodeErr != nil {
		out.add(name, "", "", fmt.Errorf("it cannot be followed: the node's own document does not hold"))
		return document{}
	}
	if bulwark.Sum(raw) != cause.Digest {
		out.add(name, "", "", fmt.Errorf("what was signed is not what the node has accepted"))
		return document{}
	}
	if cause.Kind == statement.KindPush {
		return e.pushed(out, name, raw, cause, r)
	}
	return e.stated(out, name, raw, cause, r)
}

func (e evidence) pushed(out *chain, name string, raw []byte, cause statement.Cause, r *statement.Release) document {
	cert, err := statement.ParsePushCertificate(raw)
	if err != nil {
		out.add(name, "", "", err)
		return document{}
	}
	key := ssh.FingerprintSHA256(cert.Signer)
	switch {
	case key != cause.Key:
		err = fmt.Errorf("the push was signed by %s, not by %s", key, cause.Key)
	case cert.App != r.Name:
		err = fmt.Errorf("the push was signed for the app %s", cert.App)
	}
	out.add(name, linkHolds, fmt.Sprintf("%s signed the push to %s with SSH key %s", cause.Person, cert.Ref, key), err)
	if err != nil {
		return document{}
	}
	return document{push: cert}
}

// stated checks a statement. Its signer's public key is on this machine only if it is this machine's own; for another's
// the node's signature over the cause stands in.
func (e evidence) stated(out *chain, name string, raw []byte, cause statement.Cause, r *statement.Release) document {
	state := linkVouched
	detail := fmt.Sprintf("%s signed %s with device key %s, which is not this machine's: the node says so", cause.Person, cause.Kind, cause.Key)
	var s *statement.Statement
	var err error
	if own := statement.NewKey(e.device); own.Fingerprint == cause.Key {
		state, detail = linkHolds, fmt.Sprintf("%s signed %s with this machine's device key %s", cause.Person, cause.Kind, cause.Key)
		s, err = statement.Verify(raw, own)
	} else {
		s, err = peek(raw, cause.Key)
	}
	if err == nil && (s.Kind != cause.Kind || s.App != r.App || s.Node != e.node.Fingerprint) {
		err = fmt.Errorf("what was signed is a %s for another app or installation", s.Kind)
	}
	out.add(name, state, detail, err)
	if err != nil {
		return document{}
	}
	return document{stmt: s}
}

// peek reads a statement whose signature cannot be verified here; signer is whom it must name.
func peek(raw []byte, signer string) (*statement.Statement, error) {
	by, err := statement.Signer(raw)
	if err != nil {
		return nil, err
	}
	if by != signer {
		return nil, fmt.Errorf("it is signed by %s, not by %s", by, signer)
	}
	var env struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(raw, &env); err != nil {
		return nil, err
	}
	var s statement.Statement
	return &s, statement.Strict(env.Payload, &s)
}

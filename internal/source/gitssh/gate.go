package gitssh

import (
	"context"
	"io"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
)

// Gate is what the server decides; the caller implements it. Its methods are called by many goroutines at once.
// Errors that are a bulwark.Error are shown to the user, sentence and hint; of others, and of KindInternal, the user
// learns only that the fault is ours.
type Gate interface {
	// Person says whose key it is. Any error refuses the key; an unknown key is KindUnauthorized.
	Person(ctx context.Context, key ssh.PublicKey) (bulwark.PersonID, error)

	// Begin opens a push to an app, or a fetch from it: may the person (else KindNotFound, for secrecy), which branch
	// deploys, and the seed of git's certificate nonce, which comes from the node and is good for this push alone.
	Begin(ctx context.Context, person bulwark.PersonID, app bulwark.AppName) (Session, error)

	// Receive takes a push that was checked for form. It returns when the deploy ended; nil accepts the push. Lines for
	// the user go to progress, which never fails and holds up its writer for two minutes of a push at most.
	//
	// ctx does not end when the client goes away; it ends when the server stops. If Receive returns while ctx is done,
	// the push's objects are kept, so that its deploy can go on after the restart (Server.Pack, Server.SetRef).
	// Pushes to one app may come at once: Receive orders them, and should refuse with KindConflict one whose Old is not
	// the commit accepted last, as git will not move the branch by itself then.
	Receive(ctx context.Context, p Push, progress io.Writer) error
}

// Session is what Gate.Begin decided.
type Session struct {
	App       bulwark.AppID
	Branch    string // the one that deploys, such as "main"
	NonceSeed string // a secret of at least 16 characters, for this push alone
}

// Push is one commit for the branch that deploys, signed by somebody. Its form was checked and its size; the signature
// was not: the node verifies Certificate, whose nonce must be made from its seed for the path NoncePath.
type Push struct {
	Session
	Person   bulwark.PersonID // whose key opened the connection; the certificate may say another
	From     string           // address of the connection
	AppName  bulwark.AppName
	Old      bulwark.Commit // what the branch was when git began; empty for a first push
	New      bulwark.Commit
	Ref      string // "refs/heads/" and Branch
	Message  string // the first line of the commit's message, made fit to show; nothing follows from it
	Author   string // "Name <address>" as the commit says, made fit to show; nothing follows from it
	Files    int    // in the commit's tree
	TreeSize int64  // of their contents

	Certificate []byte // as git stored it: payload and signature, byte for byte
	NonceStatus string // git's own opinion; always "OK"
	NoncePath   string // pushnonce.Path(App)

	// Pack streams a git pack that holds the commit, its trees and its blobs, complete, and nothing else: no parents.
	// It ends with io.EOF only if the pack is whole. It may be called again, and until Receive returns.
	Pack func(ctx context.Context) (io.ReadCloser, error)
}

package node

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// sourceTime is how long a source may take to come in.
const sourceTime = 15 * time.Minute

// sourced is what a build is to be made of, as the node measured it. It waits beside the source.
type sourced struct {
	// Cause is the document that the source was measured against. A build for any other must not use it.
	Cause    bulwark.Digest     `json:"cause"`
	Material statement.Resource `json:"material"`
	// Import: it is an image archive and not a source tree.
	Import bool `json:"import,omitempty"`
}

// What lies in a build's directory: a sourced, and a source tree or an image archive.
const (
	sourcedFile = "sourced.json"
	sourceDir   = "src"
	importFile  = "import.tar"
)

// readSourced reads what was measured for a build.
func readSourced(dir string, cause bulwark.Digest) (*sourced, error) {
	b, err := os.ReadFile(filepath.Join(dir, sourcedFile))
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The source of the build is not here.", "Push or deploy again.", err)
	}
	var s sourced
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.Cause != cause {
		return nil, bulwark.Failf(bulwark.KindForbidden, "The source of the build was signed for in another document.")
	}
	return &s, nil
}

// files returns the host paths of the source tree and of the image archive, one of which is empty.
func (s *sourced) files(dir string) (source, archive string) {
	if s.Import {
		return "", filepath.Join(dir, importFile)
	}
	return filepath.Join(dir, sourceDir), ""
}

func (s *sourced) buildType() string {
	if s.Import {
		return statement.ImportType
	}
	return statement.BuildType
}

// bring takes what a person signed for, and nothing else, into a build's directory.
func (b *builds) bring(ctx context.Context, receipt *ledger.Receipt, app *ledger.App, dir string, body io.Reader) (*sourced, error) {
	uid, err := b.config.UID(app.Block)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sourceTime, bulwark.Failf(bulwark.KindUnavailable, "The source took longer than 15 minutes to come in."))
	defer cancel()
	switch receipt.Kind {
	case statement.KindPush:
		var push ledger.PushBody
		if err := statement.Strict(receipt.Body, &push); err != nil {
			return nil, err
		}
		git, err := b.measure(ctx, dir, uid, push.New, body)
		return &sourced{Cause: receipt.Digest, Material: statement.Resource{URI: "git+" + string(app.Name),
			Digest: map[string]string{"gitCommit": string(push.New), "gitTree": git}}}, err
	case statement.KindDeploy:
		var d statement.Deploy
		if err := statement.Strict(receipt.Body, &d); err != nil {
			return nil, err
		}
		if d.Image != "" {
			return &sourced{Cause: receipt.Digest, Import: true, Material: d.Material()}, takeArchive(filepath.Join(dir, importFile), d.Image, body)
		}
		return &sourced{Cause: receipt.Digest, Material: d.Material()}, b.unpack(ctx, dir, uid, d.Tree, body)
	}
	return nil, bulwark.Invalid("Only a push or a deploy brings a source.", "")
}

// unpack unpacks a folder that the server brought into dir/src and checks that it is the one that a person signed for.
// The stream is read by a process without rights, as measure does it with git, and the digest is found by a second one
// that reads what the first has left behind and never saw the stream.
func (b *builds) unpack(ctx context.Context, dir string, uid uint32, want statement.TreeDigest, body io.Reader) error {
	src := filepath.Join(dir, sourceDir)
	if err := files.Dir(src, 0o700, uid); err != nil {
		return err
	}
	if _, err := b.unpacker(ctx, "unpack", src, uid, body); err != nil {
		return err
	}
	out, err := b.unpacker(ctx, "digest", src, uid, nil)
	if err != nil {
		return err
	}
	if out.Digest != want {
		return bulwark.Fail(bulwark.KindForbidden, "The source is not the folder that was signed for.", "Deploy again.",
			fmt.Errorf("signed: %s, received: %s", want, out.Digest))
	}
	return nil
}

// unpacker runs bulwark-unpack. What it says may be the word of whoever made the stream.
func (b *builds) unpacker(ctx context.Context, mode, src string, uid uint32, body io.Reader) (*tree.Outcome, error) {
	said := limited{n: 64 << 10}
	cmd := cell.Cmd{What: "Unpacking the source", Hint: "Look for very large files or very many of them in the folder.",
		Path: b.config.Unpack, Args: []string{mode, src}, Dir: src, Stdin: body, Stdout: &said, User: uid, Limits: sourceLimits}
	if body != nil {
		cmd.Write = []string{src}
	} else {
		cmd.Read = []string{src}
	}
	err := b.config.Cells.Run(ctx, cmd)
	if err != nil && bulwark.KindOf(err) != bulwark.KindInternal {
		return nil, err
	}
	var out tree.Outcome
	if jerr := json.Unmarshal([]byte(said.String()), &out); err != nil || jerr != nil {
		return nil, fmt.Errorf("node: bulwark-unpack: %w", errors.Join(err, jerr))
	}
	if e := out.Error; e != nil {
		kind := e.Kind
		switch kind {
		case bulwark.KindInvalid, bulwark.KindTooLarge, bulwark.KindUnavailable:
		default:
			kind = bulwark.KindFailed
		}
		return nil, bulwark.Fail(kind, clean(e.Message), clean(e.Hint), nil)
	}
	return &out, nil
}

// takeArchive keeps an image archive whose bytes are those that a person signed for. The node does not look into it: a
// builder does.
func takeArchive(path string, want bulwark.Digest, body io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, tree.MaxArchive+1))
	if err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "The image archive cannot be stored.", "Check that the disk is not full and deploy again.", err)
	}
	if n > tree.MaxArchive {
		return bulwark.Failf(bulwark.KindTooLarge, "The image archive is larger than %d MiB.", tree.MaxArchive>>20)
	}
	if got := fmt.Sprintf("sha256:%x", h.Sum(nil)); got != string(want) {
		return bulwark.Fail(bulwark.KindForbidden, "The image archive is not the one that was signed for.", "Deploy again.",
			fmt.Errorf("signed: %s, received: %s", want, got))
	}
	if err := f.Chmod(0o644); err != nil { // for the builder's user
		return err
	}
	return f.Close()
}

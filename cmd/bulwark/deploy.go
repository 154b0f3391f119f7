package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) deployCommand() *cobra.Command {
	var image, message string
	cmd := c.forApp(command("deploy [FOLDER]", "Deploy a folder, or an image that was built elsewhere, without git push",
		"  $ bulwark deploy .\n  $ bulwark deploy . --app shop --message \"Try the new menu\"\n  $ bulwark deploy --image shop.tar --app shop",
		between(0, 1, ""), func(ctx context.Context, args []string) error { return c.deploy(ctx, args, image, message) }))
	cmd.Long = `Sends the folder, as it is now, and builds and releases it as git push does. You sign for its digest with this machine's
device key; the platform builds nothing that differs from what you signed.

In a git work tree the files are those that git tracks and new ones that no .gitignore names, committed or not; elsewhere
it is all files. A file .bulwarkignore at the top of the folder leaves out more, line by line as in .gitignore. Symbolic
links must stay inside the folder. Permissions other than "executable" are not kept.

With --image nothing is built: the file is an OCI archive ("docker save" or "skopeo copy docker://… oci-archive:FILE"),
you sign for its bytes, and its image becomes a release.`
	cmd.Flags().StringVar(&image, "image", "", "an OCI archive to import, in place of a folder")
	cmd.Flags().StringVarP(&message, "message", "m", "", "what this is, for the list of releases")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// payload is what a deploy sends.
type payload struct {
	deploy  statement.Deploy
	what    string // for people
	smaller string // how to make it smaller
	size    int64
	write   func(io.Writer) error
	source  io.Closer
}

func (c *cli) deploy(ctx context.Context, args []string, image, message string) error {
	switch {
	case len(args) == 0 && image == "":
		return misuse("What is to be deployed?", "Give the folder: bulwark deploy . (or an image: --image FILE).")
	case len(args) == 1 && image != "":
		return misuse("Both a folder and an image are named.", "Deploy one of them.")
	}
	dir := c.cwd
	if len(args) == 1 {
		dir = c.absolute(args[0])
	}
	s, name, err := c.within(dir).onApp(ctx)
	if err != nil {
		return err
	}
	app, err := s.App(ctx, name)
	if err != nil {
		return err
	}
	c.watchLog(ctx, s)
	p, err := c.pack(ctx, dir, image)
	if err != nil {
		return err
	}
	defer p.source.Close()
	p.deploy.Message = message
	if err := p.deploy.Check(); err != nil {
		return usage(err)
	}
	if p.size > tree.MaxArchive {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("It is %s; at most %s are taken.", size(p.size), size(tree.MaxArchive)),
			p.smaller, nil)
	}
	if err := c.upload(ctx, s, name, p); err != nil {
		return err
	}
	// Signed last: what was signed can be built at once.
	signed, err := s.sign(statement.KindDeploy, app.ID, p.deploy)
	if err != nil {
		return err
	}
	op, err := s.Change(ctx, name, signed)
	if err != nil {
		return err
	}
	return c.released(ctx, s, name, op)
}

// absolute is a path as the person who gave it means it.
func (c *cli) absolute(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(c.cwd, p)
}

// within is the same command in another directory.
func (c *cli) within(dir string) *cli {
	e, there := *c.env, *c
	e.cwd, there.env = dir, &e
	return &there
}

// pack finds out what is to be sent.
func (c *cli) pack(ctx context.Context, dir, image string) (p *payload, err error) {
	pack := func() (err error) { p, err = c.packFolder(ctx, dir); return err }
	if image != "" {
		pack = func() (err error) { p, err = packImage(c.absolute(image)); return err }
	}
	if c.json {
		if err := c.event(client.Event{Stage: "read"}); err != nil {
			return nil, err
		}
	}
	return p, c.during("Reading the files", pack)
}

func (c *cli) packFolder(ctx context.Context, dir string) (*payload, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, usage(bulwark.Fail(bulwark.KindInvalid, quote(dir)+" is no folder.", "Give the folder of the app: bulwark deploy .", err))
	}
	paths, err := c.within(dir).files(ctx)
	if err != nil {
		return nil, err
	}
	t, err := tree.Measure(dir, paths, tree.DefaultLimits)
	if err != nil {
		return nil, err
	}
	n, err := t.Size()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &payload{deploy: statement.Deploy{Tree: t.Digest}, what: counted(len(t.Entries), "file"),
		smaller: "Leave out what the build does not need, with lines in .bulwarkignore.", size: n, write: t.Write, source: t}, nil
}

func packImage(path string) (*payload, error) {
	unreadable := func(err error) error {
		return usage(bulwark.Fail(bulwark.KindInvalid, "The image archive "+quote(path)+" cannot be read.", "Give a file that docker save or skopeo wrote.", err))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	p := &payload{what: "an image archive", smaller: "Leave out of the image what the app does not need to run.", source: f}
	fail := func(err error) (*payload, error) { return nil, errors.Join(err, f.Close()) }
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return fail(unreadable(err))
	}
	h := sha256.New()
	if p.size, err = io.Copy(h, f); err != nil {
		return fail(unreadable(err))
	}
	p.deploy.Image = bulwark.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
	p.write = func(w io.Writer) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.CopyN(w, f, p.size)
		return err
	}
	return p, nil
}

// upload sends it, telling how far it is.
func (c *cli) upload(ctx context.Context, s *session, name bulwark.AppName, p *payload) error {
	if c.json {
		if err := c.event(client.Event{Stage: "upload"}); err != nil {
			return err
		}
	}
	progress := c.progress("Sending " + p.what + ", " + size(p.size))
	defer progress.end()
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.CloseWithError(p.write(w))
	}()
	err := s.Upload(ctx, name, p.deploy.Source(), &sending{r: r, progress: progress, total: p.size}, p.size)
	r.CloseWithError(errLost) // ends the writer, if it is not done
	<-written
	switch {
	case ctx.Err() != nil:
		progress.set("")
		c.note("Nothing was deployed.")
		return ctx.Err()
	case err != nil:
		return err
	}
	if !c.json {
		progress.print(c.stdout, fmt.Sprintf("-----> Sent %s, %s\n       %s", p.what, size(p.size), p.deploy.Source()))
	}
	return nil
}

// sending counts what went out.
type sending struct {
	r        io.Reader
	progress *progress
	sent     int64
	total    int64
}

// Read implements [io.Reader].
func (s *sending) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	before := s.sent * 100 / s.total
	s.sent += int64(n)
	if now := s.sent * 100 / s.total; now != before {
		s.progress.set(fmt.Sprintf("Sent %s of %s (%d %%)", size(s.sent), size(s.total), now))
	}
	return n, err
}

// files lists what "bulwark deploy" sends of the current directory.
func (c *cli) files(ctx context.Context) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(c.cwd, tree.IgnoreFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, bulwark.Fail(bulwark.KindInvalid, tree.IgnoreFile+" cannot be read.", "", err)
	}
	ignore, err := tree.ParseIgnore(string(text))
	if err != nil {
		return nil, err
	}
	paths, ok, err := c.gitFiles(ctx)
	if err != nil {
		return nil, err
	}
	if !ok {
		return tree.List(c.cwd, func(p string, folder bool) bool {
			return filepath.Base(p) == ".git" || ignore.Ignores(p, folder)
		})
	}
	var out []string
	for _, p := range paths {
		if !ignore.Ignores(strings.TrimSuffix(p, "/"), strings.HasSuffix(p, "/")) {
			out = append(out, p)
		}
	}
	return c.present(out)
}

package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"
)

// Config says where the builder's own tools are and how it talks. It has no default values; cmd/bulwark-builder has.
type Config struct {
	Buildkitd string // program
	Runc      string // program, for BuildKit
	Static    string // program that serves a static site; copied into the images of static sites
	Runtime   string // directory for sockets, on a tmpfs

	Stdin  io.Reader // a line each: a bulwark.BuildSetup; maybe much later, a bulwark.BuildJob and the build secrets
	Stdout io.Writer // bulwark.BuildEvent lines
	Stderr io.Writer // for the operator; never shown to a user
}

// Run does one build and returns the exit code: 0 for success, 1 for a failure of the app, 2 for one of ours. When ctx
// ends, the build is cancelled and Run returns soon after. A builder that gets no job has nothing to say, and returns 0.
func Run(ctx context.Context, c Config) int {
	ev := newEvents(c.Stdout, newRedactor(nil))
	err := prepare(ctx, c, &ev)
	if err == nil || errors.Is(err, errNoJob) {
		return 0
	}
	if ctx.Err() != nil {
		err = bulwark.Fail(bulwark.KindCanceled, "The build was cancelled.", "", err)
	}
	return ev.fail(err, c.Stderr)
}

// prepare starts BuildKit, waits for the job and does it. The events that are written from the job on hide its secrets.
func prepare(ctx context.Context, c Config, ev **events) error {
	in := newInput(c.Stdin)
	setup, err := in.setup()
	if err != nil {
		return err
	}
	clearLeftovers(setup.State)
	begin := time.Now()
	took := func(what string) {
		fmt.Fprintf(c.Stderr, "%4d ms: %s\n", time.Since(begin).Milliseconds(), what)
	}
	d, err := startDaemon(c, setup)
	if err != nil {
		return err
	}
	defer took("buildkitd has ended")
	defer d.stop()
	j, secrets, err := in.job()
	*ev = newEvents(c.Stdout, newRedactor(secrets))
	if err != nil {
		return err
	}
	took("the job is there")
	return run(ctx, c, d, &job{*setup, *j}, secrets, *ev, took)
}

// run does the build and writes its result. The result comes before BuildKit is stopped: the blobs are all written by
// then, and the node can go on.
func run(ctx context.Context, c Config, d *daemon, job *job, secrets map[string]string, ev *events, took func(string)) error {
	if job.Import != "" {
		result, err := importImage(ctx, job, ev)
		if err == nil {
			ev.result(result)
		}
		return err
	}
	ev.stage("detect")
	p := &planning{job: job, config: c, secrets: secrets, bases: newBases(job.Bases), ev: ev}
	r, err := p.plan(ctx)
	if err != nil {
		return err
	}
	took("planned")
	cl, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	took("buildkitd answers")
	ev.stage("build")
	result, err := p.solve(ctx, cl, r, d)
	if err != nil {
		return err
	}
	took("solved")
	ev.result(result)
	if prune(ctx, cl, job.State) {
		took("pruned")
	}
	return nil
}

// prune keeps the app's cache in bounds. BuildKit's own collector wakes a minute after a build, when ours is long gone.
// It reads the size of everything, so it runs once a day, or when the file system gets full; in either case after the
// result is out.
func prune(ctx context.Context, cl *client.Client, state string) bool {
	marker := filepath.Join(state, "pruned")
	fi, err := os.Stat(marker)
	if err != nil {
		return os.WriteFile(marker, nil, 0o600) != nil // a new cache
	}
	var fs unix.Statfs_t
	full := unix.Statfs(state, &fs) == nil && fs.Bavail < fs.Blocks/8
	if !full && time.Since(fi.ModTime()) < 24*time.Hour {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if cl.Prune(ctx, nil, client.PruneAll, client.WithKeepOpt(0, 1<<30, cacheSize, 0)) == nil {
		_ = os.WriteFile(marker, nil, 0o600) // without it the next build prunes again
	}
	return true
}

// cacheSize is how much of an app's state is kept when it is pruned; what was not used for longest goes first.
const cacheSize = 4 << 30

// clearLeftovers removes what a build that was killed may have left: the bundles of its steps, whose environment may
// hold build secrets.
func clearLeftovers(state string) {
	dirs, _ := filepath.Glob(filepath.Join(state, "buildkit", "runc-*", "executor"))
	for _, dir := range dirs {
		os.RemoveAll(dir)
	}
}

// errNoResult is what a solve without an error and without a digest would be.
var errNoResult = errors.New("buildkit returned no image digest")

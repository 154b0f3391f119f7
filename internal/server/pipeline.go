package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/build"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/source"
)

// perform is the pipeline, in one direction:
//
//	source.Commit ─▶ build.Result ─▶ image.Image ─▶ release.Release ─▶ instance.Instance ─▶ edge.Route
//
// Each step finds what an earlier run of the same operation did, so a deploy that was cut off is simply run again.
func (s *Server) perform(ctx context.Context, op job.Operation, log *job.Log) (*client.Done, error) {
	a, err := app.ByID(ctx, s.db.Reader(), op.App)
	if err != nil {
		return nil, err
	}
	if op.Kind == "restart" {
		return s.restart(ctx, a, log)
	}
	// source and build: the image of what a person pushed. A config change or a rollback has its image already.
	if op.Kind == "deploy" {
		if err := s.build(ctx, a, op, log); err != nil {
			return nil, err
		}
	}
	// release: the node puts it together from what was signed and what it measured.
	var full nodeapi.Released
	log.Stage("release")
	if err := s.node.Call(ctx, "release", nodeapi.Release{Cause: op.Cause}, &full); err != nil {
		return nil, err
	}
	number := full.Release.Generation
	if err := release.Insert(ctx, s.db, &full, op.Note); err != nil {
		return nil, err
	}
	if number <= a.Promoted { // the run before this one had come this far
		return s.done(a, &full), nil
	}
	if through, err := s.instances.Resume(ctx, a, &full); err != nil {
		return nil, err
	} else if through {
		return s.done(a, &full), s.settle(ctx, a, op)
	}
	// A protected app's release waits for the approval of others; an operation of its own goes on with it.
	if waiting, err := s.waits(ctx, a, &full); err != nil {
		return nil, s.failed(ctx, a, number, err)
	} else if waiting != nil {
		return waiting, s.settle(ctx, a, op)
	}
	// instance: the release command first, then beside what serves now.
	log.Stage("start")
	log.Say(fmt.Sprintf("-----> Starting release v%d", number))
	if err := s.instances.Prepare(ctx, a, &full, log); err != nil {
		return s.stopped(ctx, a, &full, err)
	}
	if err := s.instances.Rollout(ctx, a, &full, log); err != nil {
		return s.stopped(ctx, a, &full, err)
	}
	// route: the edge changes over at once; what served before finishes its requests and ends.
	log.Stage("switch")
	if err := s.instances.Promote(ctx, a, &full); err != nil {
		return s.stopped(ctx, a, &full, err) // the node promotes nothing that lacks an approval, or of which nothing is healthy any more
	}
	return s.done(a, &full), s.settle(ctx, a, op)
}

// settle has git's branch say what is deployed, for a push whose client did not wait to the end: git refs follow from the
// database.
func (s *Server) settle(ctx context.Context, a *app.App, op job.Operation) error {
	if op.Kind != "deploy" || s.gate.Live(op.ID) {
		return nil
	}
	commit, err := s.gate.Commit(ctx, op.Cause)
	if err != nil || commit == "" {
		return err
	}
	if err := s.repos.SetRef(ctx, a.ID, source.Branch, commit); err != nil {
		s.log.Warn("a branch does not say what is deployed", "app", a.Name, "error", err)
	}
	return nil
}

// build has the node turn a source into an image that it admitted.
func (s *Server) build(ctx context.Context, a *app.App, op job.Operation, log *job.Log) error {
	id, _, err := build.Begin(ctx, s.db, a, op.ID, op.Note)
	if err != nil {
		return err
	}
	built, err := s.runBuild(ctx, nodeapi.Build{Build: id, Cause: op.Cause}, log)
	for again := 0; again < 3 && bulwark.KindOf(err) == bulwark.KindUnavailable && ctx.Err() == nil; again++ {
		log.Say("-----> The node was restarted; building again")
		built, err = s.runBuild(ctx, nodeapi.Build{Build: id, Cause: op.Cause}, log)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.Canceled) {
			return err // this process stops; the build goes on, and the next process joins it
		}
		_ = s.node.Call(context.WithoutCancel(ctx), "build/cancel", nodeapi.Build{Build: id, Cause: op.Cause}, nil) // it ends by itself otherwise
	}
	var image bulwark.Digest
	var reached []client.Reached
	if err == nil {
		image = built.Image
	}
	if built != nil { // what a failed build reached is worth knowing too
		for _, r := range built.Reached {
			reached = append(reached, client.Reached(r))
		}
	}
	if eerr := build.End(ctx, s.db, id, image, reached, err); err == nil {
		err = eerr
	}
	s.forget(ctx, op.Cause)
	return err
}

func (s *Server) runBuild(ctx context.Context, in nodeapi.Build, log *job.Log) (*nodeapi.Built, error) {
	log.Stage("source")
	source, err := s.sourceOf(ctx, in.Cause)
	if err == nil {
		defer source.Close()
		err = s.node.Upload(ctx, "source", url.Values{"build": {string(in.Build)}, "cause": {string(in.Cause)}}, source)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // built before: the node has the result
		return nil, err
	}
	built, err := s.node.Build(ctx, in, func(e nodeapi.BuildEvent) { log.Event(client.Event{Log: e.Log, Stage: e.Stage}) })
	if err == nil {
		log.Event(client.Event{Stage: "built", Own: built.Own})
	}
	return built, err
}

// restart brings the promoted release up anew beside itself.
func (s *Server) restart(ctx context.Context, a *app.App, log *job.Log) (*client.Done, error) {
	full, err := release.Get(ctx, s.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return nil, err
	}
	if err := s.instances.Restart(ctx, a, full, log); err != nil {
		return nil, err
	}
	return s.done(a, full), nil
}

func (s *Server) failed(ctx context.Context, a *app.App, number uint64, err error) error {
	if ferr := release.Fail(ctx, s.db, a.ID, number, err); ferr != nil {
		s.log.Error("a release's end cannot be written", "error", ferr)
	}
	return err
}

func (s *Server) done(a *app.App, full *nodeapi.Released) *client.Done {
	return &client.Done{Release: full.Release.Generation, Image: full.Release.Image, URL: s.url(a)}
}

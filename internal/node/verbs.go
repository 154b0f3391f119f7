package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// maxVerb bounds a verb's body in bytes; sources are streamed and bounded elsewhere.
const maxVerb = 16 << 20

// maxChallenge bounds, in bytes, what somebody chooses to know the node's answer by.
const maxChallenge = 128

// serve answers verbs until ctx ends.
func (n *Node) serve(ctx context.Context, ready func()) error {
	srv := &http.Server{Handler: n.routes(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*peer).uid)
		}}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	ready()
	if err := srv.Serve(peers{n.config.Verbs, n.config.ServerUID}); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// routes is the list of all verbs.
func (n *Node) routes() http.Handler {
	mux := http.NewServeMux()
	verb(n, mux, "info", func(ctx context.Context, in nodeapi.AskInfo) (*nodeapi.Info, error) {
		if len(in.Challenge) > maxChallenge {
			return nil, bulwark.Invalid("The challenge is too long.", "")
		}
		env, err := n.info(ctx, in.Challenge)
		if err != nil {
			return nil, err
		}
		people, err := n.ledger.People(ctx)
		return &nodeapi.Info{Envelope: env, Fresh: people == 0}, err
	})
	verb(n, mux, "certificate", func(context.Context, struct{}) (*bulwark.Certificate, error) { return n.authority.api.Load(), nil })
	verb(n, mux, "enroll", func(ctx context.Context, in nodeapi.Document) (*nodeapi.Receipt, error) {
		return receipt(n.ledger.Enroll(ctx, in.Envelope))
	})
	verb(n, mux, "receipt", func(ctx context.Context, in nodeapi.Accepted) (*nodeapi.Receipt, error) {
		return receipt(n.ledger.Accepted(ctx, in.Digest))
	})
	verb(n, mux, "submit", func(ctx context.Context, in nodeapi.Document) (*nodeapi.Receipt, error) {
		r, err := receipt(n.submit(ctx, in.Envelope))
		if err == nil && r.From != "" {
			n.instances.hostsChanged(ctx, r.From) // first, so that no name leads to two
		}
		if err == nil {
			n.instances.hostsChanged(ctx, r.App)
			n.instances.changed.send() // what depends on rules and hosts looks again
		}
		if err == nil && slices.Contains([]statement.Kind{statement.KindShieldSet, statement.KindPatchAdd, statement.KindPatchRemove}, r.Kind) {
			n.shieldsChanged(ctx)
		}
		if err == nil && r.Kind == statement.KindProjectRotate {
			n.settleKeys(ctx)
		}
		if err == nil && r.Kind == statement.KindAppDestroy {
			n.instances.endOnce(r.App)
			go n.builds.dismissOf(r.App)
			poke(n.graced)
			poke(n.builds.built) // what nobody needs goes, if there was no grace
		}
		if err == nil && slices.Contains([]statement.Kind{statement.KindMemberSet, statement.KindMemberRemove, statement.KindKeyRemove, statement.KindTokenRevoke}, r.Kind) {
			n.endLost()
		}
		if err == nil && (r.Kind == statement.KindRegistryAllow || r.Kind == statement.KindRegistryRemove) {
			n.builds.dismissAny() // it goes by what was so when it started
		}
		return r, err
	})
	verb(n, mux, "whose", n.whose)
	verb(n, mux, "graces", n.graces)
	verb(n, mux, "nonce", func(ctx context.Context, in nodeapi.Push) (*nodeapi.Nonce, error) {
		seed, err := n.ledger.Nonce(ctx, in.App)
		if err == nil {
			n.builds.earlyOf(ctx, in.App)
		}
		return &nodeapi.Nonce{Seed: seed}, err
	})
	verb(n, mux, "push", func(ctx context.Context, in nodeapi.Push) (*nodeapi.Receipt, error) {
		return receipt(n.ledger.Push(ctx, in.App, in.Certificate))
	})
	verb(n, mux, "keyowner", func(ctx context.Context, in nodeapi.KeyOwner) (*nodeapi.KeyOwner, error) {
		p, err := n.ledger.KeyOwner(ctx, in.Kind, in.Fingerprint)
		if err != nil {
			return nil, err
		}
		in.Person, in.Token, in.Scopes, in.Grants = p.Person, p.Token, p.Scopes, p.Grants
		return &in, nil
	})
	verb(n, mux, "members", func(ctx context.Context, in nodeapi.Members) (*[]nodeapi.Member, error) {
		all, err := n.ledger.Members(ctx, in.Org)
		out := []nodeapi.Member{}
		for _, m := range all {
			out = append(out, nodeapi.Member(m))
		}
		return &out, err
	})
	verb(n, mux, "tokens", func(ctx context.Context, in nodeapi.Tokens) (*[]nodeapi.Token, error) {
		all, err := n.ledger.Tokens(ctx, in.Person)
		out := []nodeapi.Token{}
		for _, t := range all {
			out = append(out, nodeapi.Token(t))
		}
		return &out, err
	})
	verb(n, mux, "keys", func(ctx context.Context, _ struct{}) (*[]nodeapi.Key, error) {
		all, err := n.ledger.Keys(ctx)
		out := []nodeapi.Key{}
		for _, k := range all {
			out = append(out, nodeapi.Key(k))
		}
		return &out, err
	})
	verb(n, mux, "release", func(ctx context.Context, in nodeapi.Release) (*nodeapi.Released, error) {
		b, r, err := n.ledger.Release(ctx, in.Cause)
		if err != nil {
			return nil, err
		}
		return &nodeapi.Released{Bundle: *b, Release: *r}, nil
	})
	verb(n, mux, "bundle", func(ctx context.Context, in nodeapi.Promote) (*nodeapi.Released, error) {
		b, r, err := n.ledger.Bundle(ctx, in.App, in.Generation)
		if err != nil {
			return nil, err
		}
		return &nodeapi.Released{Bundle: *b, Release: *r}, nil
	})
	verb(n, mux, "start", n.instances.start)
	verb(n, mux, "stop", func(ctx context.Context, in nodeapi.Stop) (*struct{}, error) { return nil, n.instances.end(ctx, in) })
	verb(n, mux, "instances", func(context.Context, struct{}) (*[]nodeapi.Instance, error) {
		all := n.instances.list()
		return &all, nil
	})
	verb(n, mux, "approvals", func(ctx context.Context, in nodeapi.Promote) (*nodeapi.Approvals, error) {
		missing, documents, err := n.ledger.Approvals(ctx, in.App, in.Generation)
		return &nodeapi.Approvals{Missing: missing, Documents: documents}, err
	})
	verb(n, mux, "promote", func(ctx context.Context, in nodeapi.Promote) (*struct{}, error) { return nil, n.promote(ctx, in) })
	verb(n, mux, "promoted", func(ctx context.Context, in nodeapi.Promoted) (*nodeapi.Promoted, error) {
		app, err := n.ledger.App(ctx, in.App)
		if err != nil {
			return nil, err
		}
		return &nodeapi.Promoted{App: in.App, Generation: app.Promoted}, nil
	})
	verb(n, mux, "certificates", func(context.Context, struct{}) (*[]certsapi.Status, error) {
		all := n.brought.over(n.certs.Status())
		return &all, nil
	})
	verb(n, mux, "certificate.retry", func(_ context.Context, in nodeapi.HostName) (*struct{}, error) {
		return nil, n.certs.Again(in.Host, time.Now())
	})
	verb(n, mux, "shield", func(ctx context.Context, in nodeapi.Push) (*bulwark.Shield, error) {
		s, err := n.ledger.Shield(ctx, in.App)
		return &s, err
	})
	verb(n, mux, "canary", func(ctx context.Context, in nodeapi.Canary) (*struct{}, error) {
		if err := onlyRoot(ctx); err != nil {
			return nil, err
		}
		return &struct{}{}, n.canary(ctx, in)
	})
	verb(n, mux, "patches", func(ctx context.Context, _ struct{}) (*[]nodeapi.Patch, error) {
		all, err := n.ledger.Patches(ctx)
		out := []nodeapi.Patch{}
		for _, p := range all {
			out = append(out, nodeapi.Patch(p))
		}
		return &out, err
	})
	verb(n, mux, "opened", func(ctx context.Context, _ struct{}) (*nodeapi.Opened, error) { return n.outward.opened(ctx) })
	verb(n, mux, "running", n.running)
	verb(n, mux, "reveal", n.reveal)
	verb(n, mux, "token", func(ctx context.Context, in nodeapi.LoginToken) (*map[string]string, error) {
		if err := onlyRoot(ctx); err != nil {
			return nil, err
		}
		token, err := n.token(ctx, in.Prober)
		return &map[string]string{"token": token}, err
	})
	verb(n, mux, "halt", func(ctx context.Context, _ struct{}) (*struct{}, error) {
		if err := onlyRoot(ctx); err != nil {
			return nil, err
		}
		return nil, n.halt(ctx)
	})
	verb(n, mux, "build/cancel", func(_ context.Context, in nodeapi.Build) (*struct{}, error) {
		n.builds.cancel(in.Build)
		return nil, nil
	})
	verb(n, mux, "sbom", n.builds.sbomOf)
	verb(n, mux, "packages", n.builds.packages)
	n.auditVerbs(mux)
	mux.HandleFunc("POST /v1/events", n.events)
	mux.HandleFunc("POST /v1/build", n.build)
	mux.HandleFunc("PUT /v1/source", n.source)
	mux.HandleFunc("POST /v1/logs", n.logs)
	mux.HandleFunc("POST /v1/run", n.run)
	mux.HandleFunc("POST /v1/applogs", n.appLogs)
	return mux
}

func receipt(r *ledger.Receipt, err error) (*nodeapi.Receipt, error) {
	if err != nil {
		return nil, err
	}
	return &nodeapi.Receipt{Digest: r.Digest, Kind: r.Kind, Person: r.Person, Token: r.Token, Key: r.Key, App: r.App, Seq: r.Seq, Config: r.Config, Protection: r.Protection,
		Until: r.Until, Promoted: r.Promoted, From: r.From,
		Rotated: r.Rotated, Body: r.Body, Chain: r.Chain}, nil
}

// verb registers a typed verb. Unknown fields are refused: a server that means more than the node understands must fail.
func verb[In, Out any](n *Node, mux *http.ServeMux, name string, f func(context.Context, In) (*Out, error)) {
	mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		var in In
		out, err := func() (*Out, error) {
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return f(r.Context(), in)
		}()
		if err != nil {
			n.refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // a caller that is gone asks again
	})
}

func read(r *http.Request, in any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxVerb+1))
	if err != nil {
		return err
	}
	if len(b) > maxVerb {
		return bulwark.Failf(bulwark.KindTooLarge, "The message is larger than %d MiB.", maxVerb>>20)
	}
	return statement.Strict(b, in)
}

func (n *Node) refuse(w http.ResponseWriter, err error) {
	e := asError(err)
	if e.Kind == bulwark.KindInternal || e.Cause != nil {
		// The text goes to the operator, never to the server.
		n.config.Log.Info("refused", "error", err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnprocessableEntity)
	_ = json.NewEncoder(w).Encode(e)
}

// halt ends all instances and builders, before the platform is stopped.
func (n *Node) halt(ctx context.Context) error {
	building := make(chan error, 1)
	go func() { building <- n.builds.halt(ctx) }()
	err := n.instances.halt(ctx)
	if err = errors.Join(err, <-building); err != nil {
		n.builds.resume()
	}
	return err
}

// promote raises the high-water mark to a generation that the node has itself seen healthy.
func (n *Node) promote(ctx context.Context, in nodeapi.Promote) error {
	_, r, err := n.ledger.Bundle(ctx, in.App, in.Generation)
	if err != nil {
		return err
	}
	if _, web := r.Plan.Processes[bulwark.ProcessWeb]; web {
		healthy := false
		for _, i := range n.instances.list() {
			healthy = healthy || i.App == in.App && i.Generation == in.Generation && i.Phase == nodeapi.PhaseHealthy && i.Kind == ""
		}
		if !healthy && !n.scaledToNone(in.App) {
			return bulwark.Failf(bulwark.KindConflict, "No instance of release v%d is healthy.", in.Generation)
		}
	}
	return n.ledger.Promote(ctx, in.App, in.Generation)
}

// scaledToNone: an app without any web instance may move on, there is nothing that could be healthy.
func (n *Node) scaledToNone(app bulwark.AppID) bool {
	for _, i := range n.instances.list() {
		if i.App == app && i.Kind == "" && i.Process == bulwark.ProcessWeb {
			return false
		}
	}
	return true
}

// running is the node's signed word on what runs, read back from the engine.
func (n *Node) running(ctx context.Context, in nodeapi.Running) (*nodeapi.Envelope, error) {
	found, err := n.instances.driver.List(ctx)
	if err != nil {
		return nil, err
	}
	out := statement.Running{Node: n.ledger.Node(), App: in.App, Challenge: in.Challenge, Time: time.Now().UTC()}
	for _, st := range found {
		i, err := fromLabels(st)
		if err != nil || i.App != in.App || st.State != driver.Running {
			continue
		}
		out.Instances = append(out.Instances, statement.RunningInstance{Instance: st.Instance, Process: i.Process, Generation: i.Generation, Once: i.Kind != "",
			Release: bulwark.Digest(st.Labels[labelRelease]), Image: bulwark.Digest(st.Labels[labelImage])})
	}
	if out.Approved, err = n.ledger.Approved(ctx, in.App); err != nil {
		return nil, err
	}
	env, err := statement.Seal(statement.RunningPayloadType, out, n.keys.node)
	return &nodeapi.Envelope{Envelope: env}, err
}

// reveal opens one value for the person who signed for it.
func (n *Node) reveal(ctx context.Context, in nodeapi.Document) (*nodeapi.Sealed, error) {
	sealed, err := n.ledger.Reveal(ctx, in.Envelope)
	return &nodeapi.Sealed{Sealed: sealed}, err
}

// events tells, line by line, that something changed; who listens asks for the instances then.
func (n *Node) events(w http.ResponseWriter, r *http.Request) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for {
		wake := n.instances.changed.wait()
		if !n.instances.halting.Load() { // else what ends has not crashed
			if err := enc.Encode(n.instances.list()); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

func (n *Node) build(w http.ResponseWriter, r *http.Request) {
	var in nodeapi.Build
	err := read(r, &in)
	if err == nil && (in.Build == "" || in.Cause == "") {
		err = bulwark.Invalid("A build needs an id and a cause.", "")
	}
	if err != nil {
		n.refuse(w, err)
		return
	}
	enc := json.NewEncoder(w)
	err = n.builds.build(r.Context(), in, func(e nodeapi.BuildEvent) error {
		if err := enc.Encode(e); err != nil {
			return err
		}
		w.(http.Flusher).Flush()
		return nil
	})
	if err != nil && r.Context().Err() == nil {
		_ = enc.Encode(nodeapi.BuildEvent{Error: asError(err)})
	}
}

func (n *Node) source(w http.ResponseWriter, r *http.Request) {
	id, err := bulwark.ParseBuildID(r.URL.Query().Get("build"))
	if err == nil {
		var cause bulwark.Digest
		if cause, err = bulwark.ParseDigest(r.URL.Query().Get("cause")); err == nil {
			err = n.builds.source(r.Context(), id, cause, http.MaxBytesReader(w, r.Body, 2<<30))
		}
	}
	if err != nil {
		n.refuse(w, err)
	}
}

// peers accepts connections of one user (and root) alone.
type peers struct {
	net.Listener
	uid uint32
}

// peer is a connection of somebody whom the kernel named.
type peer struct {
	net.Conn
	uid uint32
}

// peerKey keeps the peer's user in a request's context, between the connection and onlyRoot.
type peerKey struct{}

// onlyRoot refuses everybody but the operator on the machine.
func onlyRoot(ctx context.Context) error {
	if uid, ok := ctx.Value(peerKey{}).(uint32); ok && uid == 0 {
		return nil
	}
	return bulwark.Fail(bulwark.KindForbidden, "Only root on the machine may do this.", "", nil)
}

// Accept implements [net.Listener].
func (p peers) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UnixConn); ok {
			if cred, err := peerOf(u); err == nil && (cred.Uid == p.uid || cred.Uid == 0) {
				return &peer{Conn: c, uid: cred.Uid}, nil
			}
		}
		c.Close()
	}
}

func peerOf(u *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(cerr, err)
}

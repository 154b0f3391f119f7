package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// fake is a server for the scripts: HTTPS with a certificate of its own authority, and behind it the node's real ledger,
// so that whatever a command signs is judged as it will be in earnest. It builds and runs nothing.
type fake struct {
	*httptest.Server
	ledger *ledger.Ledger
	key    ed25519.PrivateKey
	host   ssh.Signer
	ca     []byte
	git    string // if set, the host that it lies about in git addresses

	mu      sync.Mutex
	apps    map[bulwark.AppName]*fakeApp
	events  map[bulwark.OperationID][]client.Event
	running statement.Running      // of the last push
	forge   string                 // what to spoil in a proof
	cut     bool                   // break the next stream of events off in the middle
	uploads map[string]string      // what was sent, by digest
	stale   []statement.ProjectKey // if set, old keys that it gives for today's
	rotate  int                    // after how many answers about itself the node makes new keys
	hung    chan struct{}          // if set, streams of events never end; closed when one hangs
}

type fakeApp struct {
	client.App
	bundle   statement.Bundle
	releases []client.Release
	names    map[bulwark.ConfigName]uint64
	secrets  map[bulwark.ConfigName]bool
	reached  []client.Reached
}

func newFake(dir string) (*fake, error) {
	f := &fake{apps: map[bulwark.AppName]*fakeApp{}, events: map[bulwark.OperationID][]client.Event{}, uploads: map[string]string{}}
	var err error
	if _, f.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	spare, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if f.host, err = ssh.NewSignerFromKey(host); err != nil {
		return nil, err
	}
	f.ledger, err = ledger.Open(context.Background(), ledger.Config{Path: filepath.Join(dir, "ledger.db"), Key: f.key, Domain: "bulwark.localhost",
		Keys: projectkeys.Open(dir, spare.Recipient()), Grace: 7 * 24 * time.Hour})
	if err != nil {
		return nil, err
	}
	return f, f.serve()
}

func (f *fake) serve() error {
	_, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	leafPub, leafKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafPub, caKey)
	if err != nil {
		return err
	}
	f.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	f.Server = httptest.NewUnstartedServer(f.routes())
	f.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}}}
	f.Config.ErrorLog = nil
	f.StartTLS()
	return nil
}

func (f *fake) token() (string, error) {
	secret := make([]byte, enrol.SecretSize)
	rand.Read(secret)
	return enrol.FormatToken(f.key.Public().(ed25519.PublicKey), secret), f.ledger.AddToken(context.Background(), secret)
}

// routes answers the calls of the API.
func (f *fake) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/info", f.do(func(r *http.Request, _ *fakeApp) (any, error) { return f.info(r) }))
	mux.HandleFunc("POST /v1/login", f.do(func(r *http.Request, _ *fakeApp) (any, error) {
		env, err := signed(r)
		if err != nil {
			return nil, err
		}
		rec, err := f.ledger.Enroll(r.Context(), env)
		if err != nil {
			return nil, err
		}
		return client.Me{Person: rec.Person}, nil
	}))
	mux.HandleFunc("GET /v1/whoami", f.mine(func(r *http.Request, _ *fakeApp) (any, error) {
		p, err := f.person(r)
		return client.Me{Person: p}, err
	}))
	mux.HandleFunc("GET /v1/orgs", f.mine(func(*http.Request, *fakeApp) (any, error) {
		return []client.Org{{ID: bulwark.FirstOrg, Name: "main", Role: bulwark.Owner, Projects: []client.Project{{ID: bulwark.FirstProject, Name: "main"}}}}, nil
	}))
	mux.HandleFunc("GET /v1/status", f.mine(func(*http.Request, *fakeApp) (any, error) {
		return client.Status{Version: "test", Apps: len(f.apps), Node: "ok", Edge: "ok"}, nil
	}))
	for _, p := range []string{"POST /v1/keys", "POST /v1/keys/remove", "POST /v1/orgs/{org}/projects/{project}/rotate"} {
		mux.HandleFunc(p, f.mine(func(r *http.Request, _ *fakeApp) (any, error) { _, err := f.submit(r); return struct{}{}, err }))
	}
	mux.HandleFunc("POST /v1/apps", f.mine(f.create))
	mux.HandleFunc("GET /v1/apps", f.mine(func(*http.Request, *fakeApp) (any, error) {
		out := []client.App{}
		for _, a := range f.apps {
			out = append(out, a.App)
		}
		slices.SortFunc(out, func(a, b client.App) int { return strings.Compare(string(a.Name), string(b.Name)) })
		return out, nil
	}))
	mux.HandleFunc("GET /v1/apps/{app}", f.mine(func(_ *http.Request, a *fakeApp) (any, error) { return a.App, nil }))
	mux.HandleFunc("POST /v1/apps/{app}/destroy", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		rec, err := f.submit(r)
		if err != nil {
			return nil, err
		}
		a.State, a.Until = client.StateDestroyed, rec.Until
		if rec.Until == nil {
			delete(f.apps, a.Name)
		}
		return a.App, nil
	}))
	mux.HandleFunc("POST /v1/apps/{app}/restore", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		if _, err := f.submit(r); err != nil {
			return nil, err
		}
		a.State, a.Until = "new", nil
		return a.App, nil
	}))
	mux.HandleFunc("POST /v1/apps/{app}/changes", f.mine(f.change))
	mux.HandleFunc("PUT /v1/apps/{app}/sources", f.mine(f.upload))
	mux.HandleFunc("POST /v1/apps/{app}/settings", f.mine(f.setting))
	f.reads(mux)
	f.settings(mux)
	f.once(mux)
	f.approvals(mux)
	return mux
}

// reads are the calls that change nothing that matters.
func (f *fake) reads(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/apps/{app}/operations/{op}/events", f.watch)
	mux.HandleFunc("GET /v1/apps/{app}/logs", f.logs)
	mux.HandleFunc("GET /v1/apps/{app}/releases", f.mine(func(_ *http.Request, a *fakeApp) (any, error) { return a.releases, nil }))
	mux.HandleFunc("GET /v1/apps/{app}/builds", f.mine(func(_ *http.Request, a *fakeApp) (any, error) { return []client.Build{a.build()}, nil }))
	mux.HandleFunc("GET /v1/apps/{app}/builds/{n}", f.mine(func(_ *http.Request, a *fakeApp) (any, error) { return a.build(), nil }))
	mux.HandleFunc("POST /v1/apps/{app}/builds/cancel", f.mine(func(*http.Request, *fakeApp) (any, error) {
		return nil, bulwark.Failf(bulwark.KindNotFound, "No build is under way.")
	}))
	mux.HandleFunc("GET /v1/apps/{app}/instances", f.mine(func(_ *http.Request, a *fakeApp) (any, error) {
		return []client.Instance{{ID: f.running.Instances[0].Instance, Name: "web.1", Process: "web", Release: a.Release, State: "healthy", Size: "small",
			Command: "./server", Since: time.Now().Add(-3 * time.Minute)}}, nil
	}))
	mux.HandleFunc("POST /v1/apps/{app}/scale", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		var in struct {
			Formation map[bulwark.ProcessType]int `json:"formation"`
		}
		err := json.NewDecoder(r.Body).Decode(&in)
		for p, n := range in.Formation {
			a.Formation[p] = n
		}
		return a.App, err
	}))
	mux.HandleFunc("GET /v1/apps/{app}/config", f.mine(func(_ *http.Request, a *fakeApp) (any, error) {
		out := client.AppConfig{Revision: a.App.Config}
		for n, rev := range a.names {
			out.Variables = append(out.Variables, client.Variable{Name: n, Revision: rev})
		}
		return out, nil
	}))
	mux.HandleFunc("POST /v1/apps/{app}/config/reveal", f.mine(func(r *http.Request, _ *fakeApp) (any, error) {
		env, err := signed(r)
		if err != nil {
			return nil, err
		}
		sealed, err := f.ledger.Reveal(r.Context(), env)
		return map[string][]byte{"sealed": sealed}, err
	}))
	mux.HandleFunc("GET /v1/apps/{app}/proof", f.mine(f.proof))
}

func (a *fakeApp) build() client.Build {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return client.Build{Number: 1, ID: "bld_00000000000000000000000000", State: "succeeded", Commit: forgedCommit, Created: at, Ended: at.Add(2500 * time.Millisecond), Reached: a.reached}
}

// do answers with JSON, one call at a time.
func (f *fake) do(call func(*http.Request, *fakeApp) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		out, err := func() (any, error) {
			name := bulwark.AppName(r.PathValue("app"))
			if name != "" && f.apps[name] == nil {
				return nil, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no app %s.", name), "See bulwark apps.", nil)
			}
			return call(r, f.apps[name])
		}()
		if err != nil {
			w.WriteHeader(http.StatusConflict)
			e, ok := err.(*bulwark.Error)
			if !ok {
				e = &bulwark.Error{Kind: bulwark.KindInternal, Message: err.Error()}
			}
			out = e
		}
		json.NewEncoder(w).Encode(out)
	}
}

// mine is do for who is signed in.
func (f *fake) mine(call func(*http.Request, *fakeApp) (any, error)) http.HandlerFunc {
	return f.do(func(r *http.Request, a *fakeApp) (any, error) {
		if _, err := f.person(r); err != nil {
			return nil, bulwark.Fail(bulwark.KindUnauthorized, "You are not signed in.", "", err)
		}
		return call(r, a)
	})
}

func (f *fake) person(r *http.Request) (bulwark.PersonID, error) {
	if len(r.TLS.PeerCertificates) == 0 {
		return "", bulwark.Failf(bulwark.KindUnauthorized, "Nobody is signed in.")
	}
	k := statement.NewKey(r.TLS.PeerCertificates[0].PublicKey.(ed25519.PublicKey))
	p, err := f.ledger.KeyOwner(r.Context(), "device", k.Fingerprint)
	if err != nil {
		return "", err
	}
	return p.Person, nil
}

func signed(r *http.Request) ([]byte, error) {
	var in client.Signed
	err := json.NewDecoder(r.Body).Decode(&in)
	return in.Envelope, err
}

func (f *fake) submit(r *http.Request) (*ledger.Receipt, error) {
	env, err := signed(r)
	if err != nil {
		return nil, err
	}
	return f.ledger.Submit(r.Context(), env)
}

func (f *fake) info(r *http.Request) (any, error) {
	projects, err := f.ledger.ProjectKeys(r.Context())
	if err != nil {
		return nil, err
	}
	challenge := r.URL.Query().Get("challenge")
	if f.stale != nil { // it repeats what the node said before
		projects, challenge = f.stale, ""
	}
	if f.rotate > 0 { // before what is sealed to these comes
		f.rotate--
		if _, err := f.ledger.RotateDue(r.Context(), 0); err != nil {
			return nil, err
		}
	}
	k := statement.NewKey(f.key.Public().(ed25519.PublicKey))
	env, err := statement.Seal(statement.InfoPayloadType, statement.Info{Version: 1, Node: k.Fingerprint, Key: k.PKIX(), CA: f.ca, Domain: "bulwark.localhost",
		Projects: projects, Challenge: challenge,
		SSH: []string{string(ssh.MarshalAuthorizedKey(f.host.PublicKey()))}, Ports: statement.InfoPorts{SSH: 2222}, Time: time.Now()}, f.key)
	return client.Info{Envelope: env, Version: "test"}, err
}

func (f *fake) create(r *http.Request, _ *fakeApp) (any, error) {
	rec, err := f.submit(r)
	if err != nil {
		return nil, err
	}
	var b statement.AppCreate
	if err := json.Unmarshal(rec.Body, &b); err != nil {
		return nil, err
	}
	host := "localhost"
	if f.git != "" {
		host = f.git
	}
	a := &fakeApp{names: map[bulwark.ConfigName]uint64{}, secrets: map[bulwark.ConfigName]bool{}, App: client.App{ID: rec.App, Name: b.Name, Project: bulwark.FirstProject, State: "new",
		URL: "https://" + string(b.Name) + ".bulwark.localhost", GitURL: "ssh://git@" + host + ":2222/" + string(b.Name) + ".git",
		Formation: map[bulwark.ProcessType]int{"web": 1}, Created: time.Now().Add(-time.Hour)}}
	f.apps[b.Name] = a
	return a.App, nil
}

func (f *fake) change(r *http.Request, a *fakeApp) (any, error) {
	rec, err := f.submit(r)
	if err != nil {
		return nil, err
	}
	if rec.Kind == statement.KindDeploy {
		return f.deploy(a, rec)
	}
	if rec.Config != nil {
		var b statement.ConfigSet
		if err := json.Unmarshal(rec.Body, &b); err != nil {
			return nil, err
		}
		for n := range b.Set {
			a.names[n] = rec.Config.Revision
		}
		for _, n := range b.Unset {
			delete(a.names, n)
		}
		a.App.Config = rec.Config.Revision
	}
	if a.Release == 0 {
		return client.Operation{Kind: "change", State: "done", Message: "There is no release yet."}, nil
	}
	return f.release(a, rec.Digest, string(rec.Kind))
}

func (f *fake) release(a *fakeApp, cause bulwark.Digest, kind string) (client.Operation, error) {
	ctx := context.Background()
	b, r, err := f.ledger.Release(ctx, cause)
	if err != nil {
		return client.Operation{}, err
	}
	a.releases = slices.Insert(a.releases, 0, client.Release{Number: r.Generation, State: "candidate", Image: r.Image, Config: r.Config.Revision, Cause: kind, Person: "p_x", Created: time.Now()})
	return f.finish(a, b, r, kind)
}

func (f *fake) setting(r *http.Request, a *fakeApp) (any, error) {
	rec, err := f.submit(r)
	if err != nil {
		return nil, err
	}
	if rec.Kind == statement.KindBuildSecret {
		var b statement.ConfigSet
		err = json.Unmarshal(rec.Body, &b)
		for n := range b.Set {
			a.secrets[n] = true
		}
		for _, n := range b.Unset {
			delete(a.secrets, n)
		}
		return struct{}{}, err
	}
	a.Domains, err = f.ledger.Hosts(r.Context(), a.ID)
	return struct{}{}, err
}

func (f *fake) watch(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	events, cut, hung := f.events[bulwark.OperationID(r.PathValue("op"))], f.cut, f.hung
	f.cut = false
	f.mu.Unlock()
	for i, e := range events {
		if cut && i == 2 {
			return
		}
		if hung != nil && i == 2 {
			w.(http.Flusher).Flush()
			close(hung)
			<-r.Context().Done()
			return
		}
		json.NewEncoder(w).Encode(e)
	}
}

func (f *fake) logs(w http.ResponseWriter, _ *http.Request) {
	for _, l := range []client.LogLine{{Instance: "web.1", Text: "hello"}, {Instance: "worker.10", Text: "\x1b[2Jworld"}} {
		json.NewEncoder(w).Encode(l)
	}
}

func (f *fake) proof(r *http.Request, a *fakeApp) (any, error) {
	run, key := f.running, f.key
	run.Challenge = r.URL.Query().Get("challenge")
	switch f.forge {
	case "answer":
		run.Challenge = "old"
	case "image":
		run.Instances = slices.Clone(run.Instances)
		run.Instances[0].Image = bulwark.Sum([]byte("other"))
	}
	var err error
	if run.Approved, err = f.ledger.Approved(r.Context(), a.ID); err != nil {
		return nil, err
	}
	_, approvals, err := f.ledger.Approvals(r.Context(), a.ID, a.Release)
	if err != nil {
		return nil, err
	}
	if f.forge == "approvals" {
		approvals = nil
	}
	env, err := statement.Seal(statement.RunningPayloadType, run, key)
	return client.Proof{Bundle: a.bundle, Running: env, Approvals: approvals}, err
}

// push does what a signed git push of a commit does, as far as the ledger sees it.
func (f *fake) push(name bulwark.AppName, sshKey, commit string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx := context.Background()
	a := f.apps[name]
	seed, err := f.ledger.Nonce(ctx, a.ID)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(sshKey)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return err
	}
	payload := strings.Replace(certificate(string(name), commit), "nonce 1-x", "nonce "+pushnonce.Make(seed, ledger.RepoPath(a.ID), time.Now()), 1)
	sig, err := sshsig.Sign(strings.NewReader(payload), signer, sshsig.HashSHA512, "git")
	if err != nil {
		return err
	}
	rec, err := f.ledger.Push(ctx, a.ID, append([]byte(payload), sshsig.Armor(sig)...))
	if err != nil {
		return err
	}
	if err := f.admit(a, rec, statement.Resource{Digest: map[string]string{"gitCommit": commit}}, statement.BuildType); err != nil {
		return err
	}
	a.reached = []client.Reached{{Host: "proxy.example.org", Port: 443, Allowed: true, Count: 3, Bytes: 4096}, {Host: "evil.example", Port: 80, Count: 1, Reason: "not on the list"}}
	_, err = f.release(a, rec.Digest, "push")
	return err
}

// admit does what a build leads to, as far as the ledger sees it.
func (f *fake) admit(a *fakeApp, rec *ledger.Receipt, from statement.Resource, kind string) error {
	image := bulwark.Sum([]byte(rec.Digest))
	if err := f.ledger.RecordImage(context.Background(), image, nil, ledger.ImageConfig{}); err != nil {
		return err
	}
	p := statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType, Subject: []statement.Subject{{Name: string(a.Name), Digest: map[string]string{"sha256": image.Hex()}}}}
	p.Predicate.BuildDefinition = statement.BuildDefinition{BuildType: kind,
		ExternalParameters: statement.ExternalParameters{Node: f.ledger.Node(), App: a.ID, Name: a.Name,
			Cause: statement.Cause{Kind: rec.Kind, Person: rec.Person, Key: rec.Key, Digest: rec.Digest},
			Plan:  bulwark.Plan{Processes: map[bulwark.ProcessType]bulwark.Command{"web": {Argv: []string{"./server"}}, "worker": {Argv: []string{"./worker"}}}}},
		ResolvedDependencies: []statement.Resource{from}}
	p.Predicate.RunDetails = statement.RunDetails{Builder: statement.Builder{ID: "https://bulwark.dev/builder/v1"}, Metadata: statement.Metadata{InvocationID: "bld_x"}}
	_, err := f.ledger.Admit(context.Background(), bulwark.NewBuildID(), rec.Digest, &p)
	return err
}

// upload takes what is to be deployed, and measures it as the server does.
func (f *fake) upload(r *http.Request, _ *fakeApp) (any, error) {
	var text strings.Builder
	digest, err := tree.Check(io.TeeReader(r.Body, &text), tree.DefaultLimits)
	want := r.URL.Query().Get("digest")
	if strings.HasPrefix(want, "sha256:") {
		if _, err = io.Copy(&text, r.Body); err == nil {
			digest = statement.TreeDigest(bulwark.Sum([]byte(text.String())))
		}
	}
	if err != nil || string(digest) != want || r.ContentLength != int64(text.Len()) {
		return nil, bulwark.Failf(bulwark.KindInvalid, "The upload is %s with %d of %d bytes: %v", digest, text.Len(), r.ContentLength, err)
	}
	f.uploads[want] = text.String()
	return struct{}{}, nil
}

func (f *fake) deploy(a *fakeApp, rec *ledger.Receipt) (any, error) {
	var d statement.Deploy
	if err := json.Unmarshal(rec.Body, &d); err != nil {
		return nil, err
	}
	if _, ok := f.uploads[d.Source()]; !ok {
		return nil, bulwark.Failf(bulwark.KindConflict, "It was not sent.")
	}
	kind := statement.BuildType
	if d.Image != "" {
		kind = statement.ImportType
	}
	if err := f.admit(a, rec, d.Material(), kind); err != nil {
		return nil, err
	}
	return f.release(a, rec.Digest, strings.TrimSpace(string(rec.Kind)+" "+d.Message))
}

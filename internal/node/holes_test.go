// What did not hold once: each test tells of a hole that was found by looking for it, and that stays closed.

package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The server leaves the build's id out: the directory of the build is then that of all builds, and it is removed.
func TestHoleBuildWithoutAnID(t *testing.T) {
	dir := t.TempDir()
	l, cause := pushedLedger(t)
	other := filepath.Join(dir, string(bulwark.NewAppID()), "state")
	must(t, os.MkdirAll(other, 0o700))
	b := &builds{ledger: l, log: slog.New(slog.DiscardHandler), runs: map[bulwark.BuildID]*buildRun{}, slots: make(chan struct{}, 1), config: buildConfig{Dir: dir}}

	var in nodeapi.Build
	must(t, read(httptest.NewRequest("POST", "/v1/build", strings.NewReader(`{"cause":"`+string(cause)+`"}`)), &in))
	_ = b.build(t.Context(), in, func(nodeapi.BuildEvent) error { return nil })
	if _, err := os.Stat(other); err != nil {
		t.Fatalf("another app's build cache is gone: %v", err)
	}
}

// The server leaves the instance's id out: the directory of all config sockets is taken for a socket, and no instance of
// any app starts any more.
func TestHoleStartWithoutAnID(t *testing.T) {
	init := filepath.Join(t.TempDir(), "init")
	must(t, os.Mkdir(init, 0o711))
	n := &instances{dirs: dirs{init: init}}
	var in nodeapi.Start
	must(t, read(httptest.NewRequest("POST", "/v1/start", strings.NewReader(`{"process":"web"}`)), &in))
	if o, err := n.offerConfig(in.Instance, os.Getuid(), nil); err == nil {
		o.close() // as run does when the engine refuses the id
	}
	o, err := n.offerConfig(bulwark.NewInstanceID(), os.Getuid(), nil)
	if err != nil {
		t.Fatalf("the next app's instance does not start: %v", err)
	}
	o.close()
}

// A value that is not UTF-8 arrives as another than was set.
func TestHoleValuesArriveAsTheyWereSet(t *testing.T) {
	n := &instances{dirs: dirs{init: t.TempDir()}}
	const value = "\xff\xfe"
	if seal.CheckValue("TOKEN", []byte(value)) != nil {
		return // refused: good
	}
	o, err := n.offerConfig(bulwark.NewInstanceID(), os.Getuid(), map[string]string{"TOKEN": value})
	must(t, err)
	defer o.close()
	c, err := net.Dial("unix", o.path)
	must(t, err)
	defer c.Close()
	var got map[string]string
	must(t, json.NewDecoder(c).Decode(&got))
	if got["TOKEN"] != value {
		t.Fatalf("%q arrived as %q", value, got["TOKEN"])
	}
}

// A builder's failure is shown in people's terminals like its log.
func TestHoleBuilderErrorDrivesATerminal(t *testing.T) {
	_, err := readEvents(strings.NewReader(`{"error":{"kind":"failed","message":"\u001b]0;owned\u0007\u001b[2J","hint":"\u001b[8m"}}`), &buildRun{}, make(chan *bulwark.BuildResult, 1))
	if e := asError(err); strings.ContainsRune(e.Message+e.Hint, '\x1b') {
		t.Fatalf("%q", e.Message)
	}
}

// A builder prints events with nothing in them: two bytes each, and the root process keeps some fifty for each.
func TestHoleEmptyEvents(t *testing.T) {
	r := &buildRun{}
	_, err := readEvents(strings.NewReader(strings.Repeat("{}\n", 500_000)), r, make(chan *bulwark.BuildResult, 1))
	must(t, err)
	if len(r.events) > 200_000 {
		t.Fatalf("%d events of 1.5 MB of output are kept; 12 MB are taken", len(r.events))
	}
}

// An instance ends while it becomes healthy: its registration comes after it was taken back. What stays is an entry whose
// namespace is closed, and dial is never told anything again, of any app.
func TestHoleRegisteredAfterTheEnd(t *testing.T) {
	d := &dialer{path: filepath.Join(t.TempDir(), "away"), log: slog.New(slog.DiscardHandler), entries: map[bulwark.InstanceID]dial.Entry{}}
	id := bulwark.NewInstanceID()
	ctx, stop := context.WithCancel(t.Context())
	stop()                                     // end(): i.stop(),
	_ = d.unregister(context.Background(), id) // dial.unregister,
	// and only now does the watch get dial's lock.
	_ = d.register(ctx, dial.Entry{Registration: bulwark.Registration{Instance: id}})
	if len(d.entries) > 0 {
		t.Fatal("an instance that has ended is registered for ever")
	}
}

// The node's list of instances is one line; one app's reasons must not make it longer than the server reads.
func TestHoleOneAppsReasonsBlindTheServer(t *testing.T) {
	health := "/" + strings.Repeat("<", 4000) // the app's own choice, in its plan
	n := &Node{config: Config{Log: slog.New(slog.DiscardHandler)}, instances: &instances{all: map[bulwark.InstanceID]*instance{}}}
	for range 60 {
		i := &instance{Instance: nodeapi.Instance{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID(), Process: "web", Phase: nodeapi.PhaseHealthy}}
		n.instances.all[i.Instance.Instance] = i
		n.instances.phase(i, nodeapi.PhaseSick, "it does not answer on port 8080: GET "+health+" answers 500")
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	srv := httptest.NewUnstartedServer(nil)
	srv.Listener = l
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/events", n.events)
	srv.Config.Handler = mux
	srv.Start()
	ctx, cancel := context.WithCancel(t.Context())
	defer srv.Close()
	defer cancel()
	seen := 0
	err = nodeapi.Stream(ctx, nodeapi.NewClient(path), "events", struct{}{}, func(all []nodeapi.Instance) error {
		seen = len(all)
		cancel()
		return nil
	})
	if seen != 60 {
		t.Fatalf("the server sees %d instances of the whole installation: %v", seen, err)
	}
}

// signals tells when it is read for the first time, and then never comes to an end.
type signals struct {
	read chan struct{}
	ctx  context.Context
}

func (s *signals) Read([]byte) (int, error) {
	select {
	case <-s.read:
	default:
		close(s.read)
	}
	<-s.ctx.Done()
	return 0, io.ErrUnexpectedEOF
}

// The server brings two sources for one build at a time. Each comes into a folder of its own and is measured there: neither
// takes anything away from under the other, one that is not what was signed for appears nowhere, and nothing is left.
func TestHoleTwoSourcesAtATime(t *testing.T) {
	git, err := process.Look("git", "git")
	must(t, err)
	b, dir, uid := unpacking(t)
	l, push := pushedLedger(t)
	b.ledger, b.log, b.runs, b.slots = l, slog.New(slog.DiscardHandler), map[bulwark.BuildID]*buildRun{}, make(chan struct{}) // no room for a builder
	b.disks = newDisks(t, dir)
	b.config.Dir, b.config.Git, b.config.UID = dir, git, func(uint32) (uint32, error) { return uid, nil }
	id := bulwark.NewBuildID()
	ctx, stop := context.WithCancel(t.Context())
	body := &signals{read: make(chan struct{}), ctx: ctx}
	first := make(chan error)
	go func() { first <- b.source(ctx, id, push, body) }()
	<-body.read
	under, err := filepath.Glob(filepath.Join(dir, "in-*", "git", "objects"))
	must(t, err)
	if len(under) != 1 {
		t.Fatal("the first one has no folder", under)
	}
	isKind(t, b.source(t.Context(), id, push, strings.NewReader("")), bulwark.KindForbidden)
	if _, err := os.Stat(under[0]); err != nil {
		t.Fatal("the second one took the first one's folder", err)
	}
	stop()
	isKind(t, <-first, bulwark.KindInternal) // who brought it is gone
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Fatalf("%s is left", left[0].Name())
	}
}

// pushedLedger is a ledger with an accepted push.
func pushedLedger(t *testing.T) (*ledger.Ledger, bulwark.Digest) {
	t.Helper()
	spare, err := age.GenerateHybridIdentity()
	must(t, err)
	l, err := ledger.Open(t.Context(), ledger.Config{Path: filepath.Join(t.TempDir(), "l.db"), Key: testKey(t), Domain: "apps.example.org",
		Keys: projectkeys.Open(t.TempDir(), spare.Recipient())})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	device, secret := testKey(t), []byte("secret")
	person, err := ssh.NewSignerFromKey(testKey(t))
	must(t, err)
	der := statement.NewKey(device.Public().(ed25519.PublicKey)).PKIX()
	must(t, l.AddToken(t.Context(), secret))
	sign := func(kind statement.Kind, app bulwark.AppID, body any) []byte {
		s, err := statement.New(l.Node(), kind, app, body, time.Now())
		must(t, err)
		env, err := statement.Seal(statement.PayloadType, s, device)
		must(t, err)
		return env
	}
	word, err := sshsig.Sign(bytes.NewReader(statement.KeyProof(l.Node(), statement.NewKey(device.Public().(ed25519.PublicKey)).Fingerprint,
		ssh.FingerprintSHA256(person.PublicKey()))), person, sshsig.HashSHA512, statement.KeyProofNamespace)
	must(t, err)
	_, err = l.Enroll(t.Context(), sign(statement.KindEnroll, "", statement.Enroll{Device: der, Proof: enrol.Proof(secret, der),
		SSH: []statement.SSHKey{{Line: string(ssh.MarshalAuthorizedKey(person.PublicKey())), Proof: string(sshsig.Armor(word))}}}))
	must(t, err)
	app := bulwark.NewAppID()
	_, err = l.Submit(t.Context(), sign(statement.KindAppCreate, app, statement.AppCreate{Name: "shop"}))
	must(t, err)
	seed, err := l.Nonce(t.Context(), app)
	must(t, err)
	payload := "certificate version 0.1\npushee ssh://git@apps.example.org/shop.git\nnonce " + pushnonce.Make(seed, ledger.RepoPath(app), time.Now()) +
		"\n\n" + strings.Repeat("0", 40) + " " + strings.Repeat("1", 40) + " refs/heads/main\n"
	sig, err := sshsig.Sign(strings.NewReader(payload), person, sshsig.HashSHA512, "git")
	must(t, err)
	r, err := l.Push(t.Context(), app, append([]byte(payload), sshsig.Armor(sig)...))
	must(t, err)
	return l, r.Digest
}

// A person claims more host names for one app than fit into one message to dial. That app has a fault then, and no other.
func TestHoleOneAppsHostsBlindDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dial")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	defer l.Close()
	go func() { // a dial that takes everything
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				conn := fdpass.New(c)
				defer conn.Close()
				for {
					var any json.RawMessage
					files, err := conn.Receive(&any)
					fdpass.CloseAll(files)
					if err != nil || conn.Send(struct{}{}) != nil {
						return
					}
				}
			}()
		}
	}()
	d := &dialer{path: path, log: slog.New(slog.DiscardHandler), entries: map[bulwark.InstanceID]dial.Entry{}}
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	entry := func(hosts int) dial.Entry {
		r := bulwark.Registration{Instance: bulwark.NewInstanceID(), App: bulwark.NewAppID()}
		for range hosts {
			r.Hosts = append(r.Hosts, bulwark.HostName(strings.Repeat("a23456789.", 24)+"net"))
		}
		return dial.Entry{Registration: r, NetNS: null}
	}
	must(t, d.register(t.Context(), entry(1)))
	_ = d.register(t.Context(), entry(1000)) // 250 kB of claims
	if err := d.register(t.Context(), entry(1)); err != nil {
		t.Fatalf("another app's instance cannot be registered: %v", err)
	}
}

// An instance prints without ever ending a line; whoever reads its log must not have the node keep all of it in memory.
func TestHoleLogLineWithoutEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(32<<20)) // what the collector has given back reads as zeros
	defer f.Close()
	rewind := func() { _, err := f.Seek(0, io.SeekStart); must(t, err) }
	rewind()
	n := &Node{}
	w := httptest.NewRecorder()
	n.follows(t.Context(), w, f, nodeapi.Logs{})
	for dec := json.NewDecoder(w.Body); dec.More(); {
		var l json.RawMessage
		must(t, dec.Decode(&l))
		if len(l) > 1<<20 {
			t.Fatalf("one line of %d bytes, of which the reader takes 1 MiB at most", len(l))
		}
	}
	rewind()
	if got := int(allocated(t, func() { n.follows(t.Context(), httptest.NewRecorder(), f, nodeapi.Logs{}) })); got > 16<<20 {
		t.Fatalf("%d MiB were allocated for it", got>>20)
	}
}

func allocated(t *testing.T, f func()) uint64 {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

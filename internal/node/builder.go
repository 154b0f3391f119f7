package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/buildspec"
	"github.com/bulwark-paas/bulwark/internal/egress"
	"github.com/bulwark-paas/bulwark/internal/instance/containerd"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// builder is one container that does one build. It is started with what every build of its app needs, and gets the source,
// the job and the values of the build secrets when a build is asked for: nothing that a person did not sign for.
type builder struct {
	b      *builds
	app    *ledger.App
	id     bulwark.BuildID // of the container, not of the build
	in     string          // mounted at buildspec.InDir
	rootfs string
	disk   *disk
	way    *way
	ctx    context.Context // ended: the container is killed
	kill   context.CancelFunc
	stdin  *io.PipeWriter
	stdout *io.PipeReader
	output cio.IO // what is copied into stdout
	stderr limited
	gone   chan struct{} // closed when the container is removed
	goneBy error         // before gone is closed
	told   chan struct{} // closed when its last word was read; nil before there is a job
	word   error         // before told is closed

	reached []nodeapi.Reached // of end
	err     error             // of end
}

// newBuilder starts a builder for an app.
func (b *builds) newBuilder(ctx context.Context, app *ledger.App) (k *builder, err error) {
	k = &builder{b: b, app: app, id: bulwark.NewBuildID(), stderr: limited{n: 64 << 10}, gone: make(chan struct{})}
	k.ctx, k.kill = context.WithCancel(context.Background())
	k.in = b.dir(k.id) + ".in"
	running := false
	defer func() {
		if err != nil {
			k.kill()
			if !running {
				close(k.gone)
			}
			k.close()
		}
	}()
	if err := b.disks.room(); err != nil {
		return k, err
	}
	uid, err := b.config.UID(app.Block)
	if err != nil {
		return k, err
	}
	if err := files.Dir(k.in, 0o711, 0); err != nil {
		return k, err
	}
	if k.disk, err = b.disks.open(ctx, app.ID, uid); err != nil {
		return k, err
	}
	rootfs := filepath.Join(b.config.Rootfs, string(k.id))
	if err := b.rootfs(ctx, rootfs, uid); err != nil {
		return k, err
	}
	k.rootfs = rootfs
	setup, err := b.setup(ctx)
	if err != nil {
		return k, err
	}
	if k.way, err = b.reach(ctx, k.id, app); err != nil {
		return k, err
	}
	spec := buildspec.Spec(buildspec.Options{Rootfs: k.rootfs, UIDBase: uid, Programs: b.config.Programs, In: k.in,
		State: k.disk.state(), Output: k.disk.out(), Bases: b.config.Bases, CA: b.config.CA, CgroupPath: b.config.Cgroup + "/" + string(k.id), CgroupV1: cgroupV1()})
	stdin, write := io.Pipe()
	stdout, said := io.Pipe()
	k.stdin, k.stdout = write, stdout
	create := cio.NewCreator(cio.WithStreams(io.MultiReader(bytes.NewReader(setup), stdin), said, &k.stderr),
		cio.WithFIFODir(k.fifos()))
	_, err = b.engine.Run(ctx, string(k.id), spec, containerd.Options{
		Network: k.way.connect,
		IO: func(id string) (output cio.IO, err error) {
			output, err = create(id)
			k.output = output
			return output, err
		},
	})
	if err != nil {
		return k, err
	}
	running = true
	go k.wait(said)
	return k, nil
}

// fifos is where the engine makes the pipes to the container.
func (k *builder) fifos() string { return k.in + ".io" }

// outputTime bounds the wait for the last of a builder's output: nobody may be reading it.
const outputTime = 10 * time.Second

// wait removes the container when it has ended, or is to end.
func (k *builder) wait(said io.Closer) {
	code, err := k.b.engine.Wait(k.ctx, string(k.id))
	ended := err == nil || bulwark.KindOf(err) == bulwark.KindNotFound // then nobody knows the code
	rerr := k.b.engine.RemoveID(context.WithoutCancel(k.ctx), string(k.id))
	if ended {
		k.heard()
		err = rerr
	}
	said.Close()
	k.stdin.Close()
	if k.ctx.Err() == nil && (!ended || code != 0) {
		k.b.log.Info("builder ended", "builder", k.id, "code", code, "error", err, "stderr", k.stderr.String())
	}
	k.goneBy = err
	close(k.gone)
}

// heard waits until all that the builder said is read. Its shim copied it before it let the container be removed; here it may still be on
// its way, and the result is the last of it.
func (k *builder) heard() {
	read := make(chan struct{})
	go func() {
		k.output.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-k.ctx.Done():
	case <-time.After(outputTime):
	}
}

// work hands over the source and the job, and returns the builder's result as soon as it says so; it ends after that.
func (k *builder) work(ctx context.Context, b *builds, build bulwark.BuildID, dir string, what *sourced, r *buildRun) (*bulwark.BuildResult, error) {
	context.AfterFunc(ctx, k.kill)
	secrets, err := b.ledger.BuildSecrets(ctx, k.app.ID)
	if err != nil {
		return nil, err
	}
	job, err := k.job(build, dir, what, secrets)
	if err != nil {
		return nil, err
	}
	go func() { _, _ = k.stdin.Write(job) }() // a builder that does not read is one that never answers
	k.told = make(chan struct{})
	first := make(chan *bulwark.BuildResult, 1)
	go func() {
		defer close(k.told)
		var result *bulwark.BuildResult
		result, k.word = readEvents(k.stdout, r, first)
		k.stdout.Close()
		if k.word == nil && result == nil {
			<-k.gone
			k.word = bulwark.Fail(bulwark.KindFailed, "The builder ended without a result.", "It may have run out of memory; push again.", errors.Join(k.goneBy, errors.New(k.stderr.String())))
		}
	}()
	select {
	case result := <-first:
		return result, nil
	case <-k.told:
	}
	select {
	case result := <-first: // both were ready
		return result, nil
	default:
		return nil, k.word
	}
}

// end sees to the container's end and reads what it reached; then the channel is closed, and err says how it all went.
func (k *builder) end(ctx context.Context, failed error) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if failed != nil {
			k.kill()
		}
		<-k.gone
		k.err = failed
		if k.told != nil {
			<-k.told
			if k.err == nil {
				k.err = k.word
			}
		}
		if k.err == nil {
			k.err = k.goneBy
		}
		k.reached = k.way.finish(ctx)
	}()
	return done
}

// close ends the container, if it has not ended, and takes away what was made for it.
func (k *builder) close() {
	k.kill()
	<-k.gone
	var err error
	if k.stdout != nil {
		err = errors.Join(err, k.stdout.Close())
	}
	if k.way != nil {
		err = errors.Join(err, k.way.close())
	}
	if k.rootfs != "" {
		err = errors.Join(err, k.b.images.Unmount(k.rootfs))
	}
	err = errors.Join(err, os.RemoveAll(k.in), os.RemoveAll(k.fifos()))
	if k.disk != nil {
		go k.b.closeDisk(k.disk) // writing back what lies in memory may take a while, and nobody waits for it
	}
	if err != nil {
		k.b.log.Warn("something of a builder is left", "builder", k.id, "error", err)
	}
}

// setup is the first line that a builder reads.
func (b *builds) setup(ctx context.Context) ([]byte, error) {
	registries, err := b.registries(ctx)
	if err != nil {
		return nil, err
	}
	s := bulwark.BuildSetup{State: buildspec.StateDir, Output: buildspec.OutputDir, Bases: buildspec.BasesDir, Proxy: "http://" + buildspec.ProxyAddr,
		Go: b.config.Toolchains.Go, NPM: b.config.Toolchains.NPM, Images: registries}
	if b.config.CA != "" {
		s.CA = buildspec.CAFile
	}
	line, err := json.Marshal(s)
	return append(line, '\n'), err
}

// job brings the source into the builder and returns the lines that tell of it: the job and the values of the build secrets.
func (k *builder) job(id bulwark.BuildID, dir string, what *sourced, secrets map[bulwark.ConfigName][]byte) ([]byte, error) {
	j := bulwark.BuildJob{Build: id, App: k.app.Name}
	source, archive := what.files(dir)
	if what.Import {
		j.Import, secrets = path.Join(buildspec.InDir, buildspec.Import), nil // nothing is built, so nothing asks for a secret
		if err := os.Rename(archive, filepath.Join(k.in, buildspec.Import)); err != nil {
			return nil, err
		}
	} else {
		j.Source = path.Join(buildspec.InDir, buildspec.Src)
		if err := os.Rename(source, filepath.Join(k.in, buildspec.Src)); err != nil {
			return nil, err
		}
	}
	values := map[bulwark.ConfigName]string{}
	for name, v := range secrets {
		j.Secrets = append(j.Secrets, name)
		values[name] = string(v)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	err := errors.Join(enc.Encode(j), enc.Encode(values))
	return buf.Bytes(), err
}

// way is a builder's way out: a socket in its own namespace at which the egress proxy answers.
type way struct {
	client *egress.Client
	id     bulwark.BuildID
	ctx    context.Context
	policy egress.Policy
}

func (b *builds) reach(ctx context.Context, id bulwark.BuildID, app *ledger.App) (*way, error) {
	c, err := egress.Dial(b.config.Egress)
	if err != nil {
		return nil, err
	}
	w := &way{client: c, id: id, ctx: ctx, policy: egress.Policy{App: app.Name}}
	if w.policy.Allow, err = b.rules(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return w, nil
}

func (w *way) connect(pid int) error {
	if err := network.Loopback(pid); err != nil {
		return err
	}
	l, err := network.Listen(pid, buildspec.ProxyAddr)
	if err != nil {
		return err
	}
	defer l.Close()
	return w.client.Register(w.ctx, w.id, l, w.policy)
}

// close takes the way down: the proxy forgets who asked when the connection ends. It is safe twice.
func (w *way) close() error {
	if w.client == nil {
		return nil
	}
	c := w.client
	w.client = nil
	return c.Close()
}

// finish takes the way down and tells what was reached.
func (w *way) finish(ctx context.Context) []nodeapi.Reached {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	report, err := w.client.Release(ctx, w.id)
	if err != nil {
		return nil
	}
	var out []nodeapi.Reached
	for _, e := range report.Entries {
		out = append(out, nodeapi.Reached{Host: e.Host, Port: e.Port, Allowed: e.Verdict == egress.Reached, Count: e.Count,
			Reason: string(e.Reason), Bytes: e.Up + e.Down})
	}
	return out
}

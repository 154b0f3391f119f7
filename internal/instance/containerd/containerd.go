// Package containerd drives instances on one machine through containerd and runc. It promises the hardened instance: a
// user namespace with an id range of the app's own, no capability, no new privileges, a tightened system-call filter, a
// read-only root, its own pid, mount, ipc, uts, network and control-group namespaces, and limits; see spec.go.
//
// Whoever owns containerd is root on the machine, so its socket is root's alone.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
)

// Driver implements [driver.Driver].
type Driver struct {
	client *client.Client
	config Config
}

// Config says where the engine is.
type Config struct {
	Socket    string // containerd's
	EngineBin string // directory with runc and the shim
	State     string // directory for runc's state
	Cgroup    string // parent control group, "/bulwark-main"
}

// Namespace is containerd's namespace for everything of ours.
const Namespace = "bulwark"

// The labels of our own: one that a container has from before its process is let go, and one that holds its exit code once its task was
// settled. A container without both and without a task never did anything.
const (
	labelBegun = "bulwark.begun"
	labelExit  = "bulwark.exit"
)

// startTime bounds a start as a whole, on a machine that starts all its instances at once.
const startTime = 5 * time.Minute

// How often a removal is tried, and the pause after the first try; each next one is twice as long.
const (
	removeTries = 6
	removePause = 50 * time.Millisecond
)

// Open connects to containerd; it waits until containerd answers or ctx ends.
func Open(ctx context.Context, c Config) (*Driver, error) {
	cl, err := client.New(c.Socket, client.WithDefaultNamespace(Namespace), client.WithTimeout(30*time.Second),
		client.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(reconnect), grpc.WithChainUnaryInterceptor(patient)}))
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	return &Driver{client: cl, config: c}, nil
}

// Close ends the connection.
func (d *Driver) Close() error { return d.client.Close() }

// Client returns the connection, for the builder, which runs through the same engine.
func (d *Driver) Client() *client.Client { return d.client }

// Start implements [driver.Driver].
func (d *Driver) Start(ctx context.Context, s driver.Spec) (pid int, err error) {
	return d.Run(ctx, string(s.Instance), d.spec(s), Options{Labels: s.Labels, LogFile: s.LogFile, Network: s.Network, Streams: s.Streams, Sandbox: s.Sandbox})
}

// Options are what Run needs beside the OCI spec.
type Options struct {
	Labels  map[string]string
	LogFile string
	Network func(pid int) error
	Streams *driver.Streams // in place of LogFile
	IO      cio.Creator     // in place of LogFile
	Sandbox bool            // gVisor in runc's place
}

// runtime are the programs that the shim has create a container. gVisor's own shim needs more rights than the engine has.
func (d *Driver) runtime(sandbox bool) *runcoptions.Options {
	o := &runcoptions.Options{BinaryName: filepath.Join(d.config.EngineBin, "runc"), Root: d.config.State}
	if sandbox {
		o.BinaryName, o.Root = filepath.Join(d.config.EngineBin, "runsc"), filepath.Join(d.config.State, "runsc")
	}
	return o
}

// Run creates and starts a container from a whole OCI spec. Instances go through Start; the node's builders come here. While the engine
// is started again it waits; KindUnavailable if that takes long, or if the engine went away in the middle. What an attempt that was cut
// off left under the same id is taken away first, so the caller sees to it that there is one Run of an id at a time, and no other use of it.
//
// When ctx ends, Run does between two of its steps: of a call that is cut off in the middle nobody could say whether the engine did it.
func (d *Driver) Run(ctx context.Context, id string, spec *specs.Spec, o Options) (pid int, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	whole, cancel := context.WithTimeout(namespaces.WithNamespace(context.WithoutCancel(ctx), Namespace), startTime)
	defer cancel()
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), awayTime+10*time.Second)
			defer cancel()
			err = failed(errors.Join(err, d.remove(clean, id)))
		}
	}()
	container, err := d.create(whole, id, spec, o)
	if errdefs.IsAlreadyExists(err) {
		if err = d.remove(whole, id); err == nil {
			container, err = d.create(whole, id, spec, o)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("containerd: cannot create: %w", err)
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	create := o.IO
	var streams *streams
	switch {
	case o.Streams != nil:
		streams = newStreams(o.Streams)
		defer func() { streams.begun(err) }()
		create = streams.create
	case create == nil:
		create = cio.LogFile(o.LogFile)
	}
	task, err := container.NewTask(whole, create)
	if err != nil {
		return 0, fmt.Errorf("containerd: cannot create the task: %w", err)
	}
	if streams != nil {
		streams.task = task
	}
	pid = int(task.Pid())
	if o.Network != nil {
		if err := o.Network(pid); err != nil {
			return 0, err
		}
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if _, err := container.SetLabels(whole, map[string]string{labelBegun: "true"}); err != nil {
		return 0, fmt.Errorf("containerd: %w", err)
	}
	if err := task.Start(whole); err != nil {
		return 0, fmt.Errorf("containerd: cannot start: %w", err)
	}
	return pid, nil
}

func (d *Driver) create(ctx context.Context, id string, spec *specs.Spec, o Options) (client.Container, error) {
	return d.client.NewContainer(ctx, id,
		client.WithContainerLabels(o.Labels),
		client.WithRuntime(filepath.Join(d.config.EngineBin, "containerd-shim-runc-v2"), d.runtime(o.Sandbox)),
		func(_ context.Context, _ *client.Client, c *containers.Container) error {
			any, err := typeurl.MarshalAnyToProto(spec)
			c.Spec = any
			return err
		})
}

// Signal implements [driver.Driver].
func (d *Driver) Signal(ctx context.Context, id bulwark.InstanceID, sig syscall.Signal) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	task, err := d.task(ctx, string(id))
	if err != nil {
		return err
	}
	if err := task.Kill(ctx, sig); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

func (d *Driver) task(ctx context.Context, id string) (client.Task, error) {
	c, err := d.client.LoadContainer(ctx, id)
	if err == nil {
		var t client.Task
		if t, err = c.Task(ctx, nil); err == nil {
			return t, nil
		}
	}
	return nil, known(err)
}

// known says of an error whether it is that there is no such instance, or not any more.
func known(err error) error {
	if errdefs.IsNotFound(err) {
		return bulwark.Fail(bulwark.KindNotFound, "The instance does not run.", "", err)
	}
	return fmt.Errorf("containerd: %w", err)
}

// Remove implements [driver.Driver].
func (d *Driver) Remove(ctx context.Context, id bulwark.InstanceID) error {
	return d.remove(ctx, string(id))
}

// RemoveID is Remove for a container that is not an instance.
func (d *Driver) RemoveID(ctx context.Context, id string) error { return d.remove(ctx, id) }

// Settle implements [driver.Driver]: the shim answers a deletion when it has copied all output. The exit code, which goes
// with the task, is kept as a label.
func (d *Driver) Settle(ctx context.Context, id bulwark.InstanceID) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	task, err := d.task(ctx, string(id))
	if err != nil {
		return err
	}
	st, err := task.Status(ctx)
	if err != nil {
		return known(err)
	}
	c, err := d.client.LoadContainer(ctx, string(id))
	if err != nil {
		return known(err)
	}
	if _, err := c.SetLabels(ctx, map[string]string{labelExit: strconv.Itoa(int(st.ExitStatus))}); err != nil {
		return known(err)
	}
	if _, err := task.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

// remove removes a container, whatever state it is in. A shim that just ends, or somebody else who removes the same, makes
// the engine answer with an error that is none: so it is looked at again a few times.
func (d *Driver) remove(ctx context.Context, id string) error {
	var err error
	for try := range removeTries {
		if err = d.tryRemove(ctx, id); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(removePause << try):
		}
	}
	return err
}

func (d *Driver) tryRemove(ctx context.Context, id string) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	c, err := d.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	task, err := c.Task(ctx, nil)
	if err == nil {
		var kill []client.ProcessDeleteOpts
		// What has ended is not killed: gVisor answers that with an error of its own, which says nothing to the shim.
		if st, err := task.Status(ctx); err != nil || st.Status != client.Stopped {
			kill = append(kill, client.WithProcessKill)
		}
		if _, err := task.Delete(ctx, kill...); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("containerd: cannot delete the task of %s: %w", id, err)
		}
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("containerd: %w", err)
	}
	if err := c.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

// List implements [driver.Driver].
func (d *Driver) List(ctx context.Context) ([]driver.Status, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	all, err := d.client.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	var out []driver.Status
	for _, c := range all {
		id, err := bulwark.ParseInstanceID(c.ID())
		if err != nil {
			continue // a builder
		}
		labels, err := c.Labels(ctx)
		if err != nil {
			if errdefs.IsNotFound(err) {
				continue
			}
			return nil, fmt.Errorf("containerd: %w", err)
		}
		st := driver.Status{Instance: id, Labels: labels, State: driver.Stopped, ExitCode: -1}
		if task, err := c.Task(ctx, nil); err == nil {
			st.PID = int(task.Pid())
			s, err := task.Status(ctx)
			switch {
			case err != nil:
			case s.Status == client.Running || s.Status == client.Paused || s.Status == client.Pausing:
				st.State = driver.Running
			case s.Status == client.Created:
				st.State = driver.Created
			default:
				st.ExitCode = int(s.ExitStatus)
			}
		} else if code, err := strconv.Atoi(labels[labelExit]); err == nil {
			st.ExitCode = code
		} else if labels[labelBegun] == "" {
			st.State = driver.Created // without a task: who made it was killed before it had one
		}
		out = append(out, st)
	}
	return out, nil
}

// Exits implements [driver.Driver].
func (d *Driver) Exits(ctx context.Context) (<-chan driver.Exit, error) {
	events, errs := d.client.Subscribe(namespaces.WithNamespace(ctx, Namespace), `topic=="/tasks/exit"`)
	out := make(chan driver.Exit, 64)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case err := <-errs:
				_ = err // that there is no more is all that matters: the caller asks for everything again
				return
			case e := <-events:
				v, err := typeurl.UnmarshalAny(e.Event)
				if err != nil {
					continue
				}
				x, ok := v.(*apievents.TaskExit)
				if !ok || x.ID != x.ContainerID {
					continue // the end of an exec is not the end of the instance
				}
				id, err := bulwark.ParseInstanceID(x.ContainerID)
				if err != nil {
					continue
				}
				select {
				case out <- driver.Exit{Instance: id, PID: int(x.Pid), Code: int(x.ExitStatus), At: x.ExitedAt.AsTime()}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

// Wait waits until a container's process ended and returns its exit code. An engine that is killed meanwhile leaves the process and its shim
// alone, so the next one is asked, for as long as it takes. KindNotFound if the process is over and nobody knows its exit code any more: it ended while
// there was no engine.
func (d *Driver) Wait(ctx context.Context, id string) (int, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	var failing time.Time // since when there is an engine, and it answers with errors
	for {
		code, err := d.waitOnce(ctx, id)
		switch {
		case err == nil || ctx.Err() != nil || bulwark.KindOf(err) == bulwark.KindNotFound:
			return code, err
		case away(err): // it says so of a shim that just went, too: then there is soon no task
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
		case time.Since(failing) > awayTime:
			return 0, err
		}
		select {
		case <-time.After(removePause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (d *Driver) waitOnce(ctx context.Context, id string) (int, error) {
	task, err := d.task(ctx, id)
	if err != nil {
		return 0, err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("containerd: %w", err)
	}
	select {
	case st := <-exit:
		if err := st.Error(); err != nil {
			return 0, known(errgrpc.ToNative(err)) // the one call of its client that does not do so itself
		}
		return int(st.ExitCode()), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// IDs returns the ids of all containers, builders among them.
func (d *Driver) IDs(ctx context.Context) ([]string, error) {
	all, err := d.client.Containers(namespaces.WithNamespace(ctx, Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	var out []string
	for _, c := range all {
		out = append(out, c.ID())
	}
	return out, nil
}

package containerd

import (
	"context"
	"fmt"
	"io"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
)

// streams connects a task's standard streams by the engine's FIFOs.
type streams struct {
	to    *driver.Streams
	io    cio.IO
	task  client.Task
	ready chan struct{} // closed when the task has begun or will not
}

func newStreams(to *driver.Streams) *streams {
	return &streams{to: to, ready: make(chan struct{})}
}

// create implements [cio.Creator].
func (s *streams) create(id string) (cio.IO, error) {
	opts := []cio.Opt{cio.WithStreams(&stdin{s: s}, s.to.Stdout, s.to.Stderr), cio.WithFIFODir(s.to.Dir)}
	if s.to.Terminal {
		opts = append(opts, cio.WithTerminal)
	}
	var err error
	s.io, err = cio.NewCreator(opts...)(id)
	return s.io, err
}

// begun is called when the task runs, or with why it does not.
func (s *streams) begun(err error) {
	close(s.ready)
	if s.io == nil {
		s.close()
		return
	}
	if err != nil {
		s.io.Cancel()
	}
	go func() {
		s.io.Wait() // the shim closes its ends when the process has ended and everything was copied
		s.io.Cancel()
		s.io.Close() // what it says is of files that are closed already
		s.close()
	}()
}

func (s *streams) close() {
	s.to.Stdout.Close()
	s.to.Stderr.Close()
}

// stdin reads what goes to the process. At its end the shim is told, which holds the FIFO open otherwise; a terminal
// stays open.
type stdin struct{ s *streams }

// Read implements [io.Reader].
func (r *stdin) Read(b []byte) (int, error) {
	n, err := r.s.to.Stdin.Read(b)
	if err == io.EOF && !r.s.to.Terminal {
		go r.closed()
	}
	return n, err
}

func (r *stdin) closed() {
	<-r.s.ready
	if r.s.task == nil {
		return
	}
	// A process that has ended has no stdin to close.
	_ = r.s.task.CloseIO(namespaces.WithNamespace(context.Background(), Namespace), client.WithStdinCloser)
}

func consoleSize(s *driver.Streams) *specs.Box {
	if s == nil || !s.Terminal || s.Columns == 0 || s.Rows == 0 {
		return nil
	}
	return &specs.Box{Width: uint(s.Columns), Height: uint(s.Rows)}
}

// Resize implements [driver.Driver].
func (d *Driver) Resize(ctx context.Context, id bulwark.InstanceID, columns, rows uint16) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	task, err := d.task(ctx, string(id))
	if err != nil {
		return err
	}
	if err := task.Resize(ctx, uint32(columns), uint32(rows)); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

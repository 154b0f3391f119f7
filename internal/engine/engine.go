// Package engine is what the containerd that is linked into Bulwark does in another way than containerd by itself. It promises that a step
// with a task, once it was asked for, comes to its end, whatever becomes of who asked: containerd cuts it off when the caller's connection
// ends, and of a start that is cut off in the middle a shim and a process can stay that it knows nothing of, under an id that cannot be
// used again.
//
// Whoever owns the engine is root on the machine, so its socket is root's alone; what is here adds nothing to that.
package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
)

// Replaced is the plugin of containerd's own that the engine's configuration must disable: Register has another one in its place.
const Replaced = "io.containerd.grpc.v1.tasks"

// stepTime bounds a step, so that one that hangs does not keep its id for ever.
const stepTime = 5 * time.Minute

// Register has containerd use what is here, once in a process and before containerd begins. state and socket are the engine's.
func Register(state, socket string) {
	registry.Register(&plugin.Registration{
		Type:     plugins.GRPCPlugin,
		ID:       "whole-tasks",
		Requires: []plugin.Type{plugins.ServicePlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			p, err := ic.GetByID(plugins.ServicePlugin, services.TasksService)
			if err != nil {
				return nil, err
			}
			local, ok := p.(api.TasksClient)
			if !ok {
				return nil, fmt.Errorf("engine: the service of tasks is a %T", p)
			}
			return &tasks{local: local, shims: shimsOf{state: state, socket: socket}, busy: map[string]chan struct{}{}}, nil
		},
	})
}

// tasks is containerd's service of tasks. What makes or takes a task is done whole, and one at a time for each container; who asks
// whether there is a task waits for that, so that the answer is true.
type tasks struct {
	api.UnimplementedTasksServer
	local api.TasksClient
	shims shimsOf

	mu   sync.Mutex               // guards busy
	busy map[string]chan struct{} // by namespace and container; closed when the step is over
}

// Register is how containerd's server takes a service.
func (t *tasks) Register(s *grpc.Server) error {
	api.RegisterTasksServer(s, t)
	return nil
}

// turn waits until nothing is done with a container's task.
func (t *tasks) turn(ctx context.Context, container string) (over func(), err error) {
	namespace, _ := namespaces.Namespace(ctx) // without one the call itself is refused
	key := namespace + "/" + container
	for {
		t.mu.Lock()
		other, busy := t.busy[key]
		if !busy {
			mine := make(chan struct{})
			t.busy[key] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.busy, key)
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// whole does a step to its end.
func whole[In, Out any](ctx context.Context, t *tasks, container string, in In, step func(context.Context, In, ...grpc.CallOption) (Out, error)) (out Out, err error) {
	over, err := t.turn(ctx, container)
	if err != nil {
		return out, err
	}
	defer over()
	if err := ctx.Err(); err != nil {
		return out, err // nothing was done yet
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
	defer cancel()
	return step(ctx, in)
}

// Create implements [api.TasksServer], like all that follows. A disk that takes nothing when the shim has started makes containerd forget it.
func (t *tasks) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	return whole(ctx, t, r.ContainerID, r, func(ctx context.Context, r *api.CreateTaskRequest, o ...grpc.CallOption) (*api.CreateTaskResponse, error) {
		made, err := t.local.Create(ctx, r, o...)
		if err != nil {
			of := t.shims
			of.namespace, _ = namespaces.Namespace(ctx)
			of.id = r.ContainerID
			if _, lerr := of.endLost(); lerr != nil {
				return nil, errors.Join(err, lerr)
			}
		}
		return made, err
	})
}

// Start is done whole.
func (t *tasks) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	return whole(ctx, t, r.ContainerID, r, t.local.Start)
}

// Delete is done whole.
func (t *tasks) Delete(ctx context.Context, r *api.DeleteTaskRequest) (*api.DeleteResponse, error) {
	return whole(ctx, t, r.ContainerID, r, t.local.Delete)
}

// Get waits for what is being done with the task.
func (t *tasks) Get(ctx context.Context, r *api.GetRequest) (*api.GetResponse, error) {
	over, err := t.turn(ctx, r.ContainerID)
	if err != nil {
		return nil, err
	}
	defer over()
	return t.local.Get(ctx, r)
}

// DeleteProcess and all below are containerd's own.
func (t *tasks) DeleteProcess(ctx context.Context, r *api.DeleteProcessRequest) (*api.DeleteResponse, error) {
	return t.local.DeleteProcess(ctx, r)
}

// List is containerd's own.
func (t *tasks) List(ctx context.Context, r *api.ListTasksRequest) (*api.ListTasksResponse, error) {
	return t.local.List(ctx, r)
}

// Pause is containerd's own.
func (t *tasks) Pause(ctx context.Context, r *api.PauseTaskRequest) (*types.Empty, error) {
	return t.local.Pause(ctx, r)
}

// Resume is containerd's own.
func (t *tasks) Resume(ctx context.Context, r *api.ResumeTaskRequest) (*types.Empty, error) {
	return t.local.Resume(ctx, r)
}

// Kill is containerd's own.
func (t *tasks) Kill(ctx context.Context, r *api.KillRequest) (*types.Empty, error) {
	return t.local.Kill(ctx, r)
}

// ListPids is containerd's own.
func (t *tasks) ListPids(ctx context.Context, r *api.ListPidsRequest) (*api.ListPidsResponse, error) {
	return t.local.ListPids(ctx, r)
}

// Exec is containerd's own.
func (t *tasks) Exec(ctx context.Context, r *api.ExecProcessRequest) (*types.Empty, error) {
	return t.local.Exec(ctx, r)
}

// ResizePty is containerd's own.
func (t *tasks) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*types.Empty, error) {
	return t.local.ResizePty(ctx, r)
}

// CloseIO is containerd's own.
func (t *tasks) CloseIO(ctx context.Context, r *api.CloseIORequest) (*types.Empty, error) {
	return t.local.CloseIO(ctx, r)
}

// Update is containerd's own.
func (t *tasks) Update(ctx context.Context, r *api.UpdateTaskRequest) (*types.Empty, error) {
	return t.local.Update(ctx, r)
}

// Metrics is containerd's own.
func (t *tasks) Metrics(ctx context.Context, r *api.MetricsRequest) (*api.MetricsResponse, error) {
	return t.local.Metrics(ctx, r)
}

// Wait is containerd's own.
func (t *tasks) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	return t.local.Wait(ctx, r)
}

package engine

import (
	"context"
	"errors"
	"testing"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
)

// shims stands for what makes tasks: it takes until it is told to go on.
type shims struct {
	api.TasksClient
	began, goOn chan struct{}
	cut         error
	made        bool
}

func (s *shims) Create(ctx context.Context, _ *api.CreateTaskRequest, _ ...grpc.CallOption) (*api.CreateTaskResponse, error) {
	s.began <- struct{}{}
	<-s.goOn
	s.cut, s.made = ctx.Err(), true
	return &api.CreateTaskResponse{}, s.cut
}

func (s *shims) Get(context.Context, *api.GetRequest, ...grpc.CallOption) (*api.GetResponse, error) {
	if !s.made {
		return nil, errors.New("not found")
	}
	return &api.GetResponse{}, nil
}

// Who asked for a task was killed while it was made: a shim stayed that nobody knew of, and the id could not be used again.
func TestTaskIsMadeWhole(t *testing.T) {
	local := &shims{began: make(chan struct{}), goOn: make(chan struct{})}
	s := &tasks{local: local, busy: map[string]chan struct{}{}}
	all := namespaces.WithNamespace(t.Context(), "n")
	caller, gone := context.WithCancel(all)
	created := make(chan error, 1)
	go func() {
		_, err := s.Create(caller, &api.CreateTaskRequest{ContainerID: "a"})
		created <- err
	}()
	<-local.began
	gone()

	// Whoever asks meanwhile waits, or goes away itself; of another container the answer comes at once.
	impatient, cancel := context.WithCancel(all)
	cancel()
	for name, ask := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := s.Get(ctx, &api.GetRequest{ContainerID: "a"}); return err },
		"create": func(ctx context.Context) error {
			_, err := s.Create(ctx, &api.CreateTaskRequest{ContainerID: "a"})
			return err
		},
		"start": func(ctx context.Context) error {
			_, err := s.Start(ctx, &api.StartRequest{ContainerID: "a"})
			return err
		},
		"delete": func(ctx context.Context) error {
			_, err := s.Delete(ctx, &api.DeleteTaskRequest{ContainerID: "a"})
			return err
		},
	} {
		if err := ask(impatient); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want it to wait until it is canceled", name, err)
		}
	}
	if _, err := s.Get(all, &api.GetRequest{ContainerID: "b"}); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("another container: %v", err)
	}
	found := make(chan error, 1)
	go func() {
		_, err := s.Get(all, &api.GetRequest{ContainerID: "a"})
		found <- err
	}()
	close(local.goOn)
	if err := <-found; err != nil {
		t.Errorf("it did not wait: %v", err)
	}
	if err := <-created; err != nil || local.cut != nil {
		t.Errorf("%v: the step was cut off: %v", err, local.cut)
	}
	if len(s.busy) > 0 {
		t.Errorf("%d turns are kept", len(s.busy))
	}
	// What was not begun when its caller went away is not begun any more.
	if _, err := s.Create(impatient, &api.CreateTaskRequest{ContainerID: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v: it was begun", err)
	}
}

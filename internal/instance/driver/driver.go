// Package driver is the boundary between the node, which decides what runs, and an engine that runs it. It promises that a
// driver starts exactly what a Spec says and reports what it finds, not what it was told.
//
// Whoever owns a driver owns the instances that it runs; it opens no secret and verifies no statement: the node did, before
// it calls.
package driver

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Spec is one instance as an engine needs it. All paths are the node's own; none comes from a user.
type Spec struct {
	Instance bulwark.InstanceID
	Labels   map[string]string // kept by the engine and returned by List
	Rootfs   string            // mounted, read-only, already mapped to the user range
	Args     []string
	Env      []string // never a secret: engines write it to disk
	Dir      string
	UIDBase  uint32 // host id of the instance's user 0; 65536 ids from there
	Limits   bulwark.Limits
	Writable []string // absolute paths that get an empty file system in memory
	Mounts   []Mount  // read-only files of the node's, such as the init's socket
	Hostname string
	// Sandbox has it run on a kernel of its own in user space. Its network is then that kernel's: a socket that somebody else makes
	// in its network namespace leads nowhere.
	Sandbox bool
	LogFile string
	// Network is called between create and start with the process that holds the new network namespace.
	Network func(pid int) error
	// Streams, if set, connects the standard streams in place of LogFile; nil for what has nobody who listens.
	Streams *Streams
}

// Mount binds a file or directory of the node's into an instance.
type Mount struct {
	Source, Target string
	Writable       bool
}

// Streams are where a one-off instance's standard streams go. The driver closes Stdout and Stderr after the last byte. What
// is connected so ends with the process that connected it: nobody can take it over.
type Streams struct {
	Dir            string // for the engine's pipes
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser // Stderr is not written to if there is a terminal
	Terminal       bool           // a terminal in place of pipes
	Columns, Rows  uint16         // its size; 0 for unknown
}

// State is where an instance stands.
type State string

// The states that an engine knows.
const (
	Created State = "created" // it never ran
	Running State = "running"
	Stopped State = "stopped"
)

// Status is what an engine reports of an instance.
type Status struct {
	Instance bulwark.InstanceID
	Labels   map[string]string
	State    State
	PID      int
	ExitCode int // when Stopped; 128 + signal for a signal's death
	OOM      bool
}

// Exit is the end of an instance.
type Exit struct {
	Instance bulwark.InstanceID
	PID      int // as the host counts: an id may be started again after a start that was given up
	Code     int
	At       time.Time
}

// Driver runs instances. Each method may be repeated: removing what is gone is no error.
type Driver interface {
	// Start creates and starts an instance and returns its process id. When it fails, or is cut off, nothing is left behind; what one
	// that was killed left under the same id is taken away first.
	Start(context.Context, Spec) (pid int, err error)
	// Signal sends a signal to the instance's first process.
	Signal(context.Context, bulwark.InstanceID, syscall.Signal) error
	// Settle returns when all that an ended instance wrote is in its log file; List still reports it, as Stopped. It is for
	// what ended by itself: an instance that runs is an error.
	Settle(context.Context, bulwark.InstanceID) error
	// Remove kills all processes of an instance and forgets it.
	Remove(context.Context, bulwark.InstanceID) error
	// List reports every instance that the engine knows.
	List(context.Context) ([]Status, error)
	// Resize tells the terminal of an instance that has one its size.
	Resize(ctx context.Context, id bulwark.InstanceID, columns, rows uint16) error
	// Exits sends the end of each instance until ctx ends or the engine goes away, which closes the channel.
	Exits(context.Context) (<-chan Exit, error)
}

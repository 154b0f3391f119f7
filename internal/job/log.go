package job

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// logs keeps one file of events per operation.
type logs struct {
	dir  string
	mu   sync.Mutex // guards news
	news chan struct{}
}

func newLogs(dir string) (*logs, error) {
	return &logs{dir: dir, news: make(chan struct{})}, os.MkdirAll(dir, 0o700)
}

func (l *logs) path(id bulwark.OperationID) string { return filepath.Join(l.dir, string(id)+".ndjson") }

func (l *logs) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

func (l *logs) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
}

// Log takes the events of one run of an operation. It never fails its caller: a log that cannot be written must not stop
// a deploy.
type Log struct {
	logs *logs
	mu   sync.Mutex // guards f
	f    *os.File
}

func (l *logs) open(id bulwark.OperationID) *Log {
	f, err := os.OpenFile(l.path(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f = nil
	}
	return &Log{logs: l, f: f}
}

// Event appends an event, with its time.
func (l *Log) Event(e client.Event) {
	e.At = time.Now().UTC()
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	l.mu.Lock()
	if l.f != nil {
		_, _ = l.f.Write(append(b, '\n')) // see the type's comment
	}
	l.mu.Unlock()
	l.logs.wake()
}

// Say appends a line for the user.
func (l *Log) Say(line string) { l.Event(client.Event{Log: line}) }

// Stage notes that a stage begins.
func (l *Log) Stage(name string) { l.Event(client.Event{Stage: name}) }

func (l *Log) close(last *client.Event) {
	if last != nil {
		l.Event(*last)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// Watch passes the events of an operation to f from the first on, until it has ended; the last has Done or Error.
func (e *Engine) Watch(ctx context.Context, app bulwark.AppID, id bulwark.OperationID, f func(client.Event) error) error {
	var offset int64
	for {
		wake := e.logs.wait()
		op, err := e.Get(ctx, app, id)
		if err != nil {
			return err
		}
		// The state is read before the file, so an operation that is over has its last line there.
		last, n, err := e.logs.read(id, offset, f)
		if err != nil {
			return err
		}
		offset += n
		if last {
			return nil
		}
		if op.Over() {
			return f(end(op))
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// end is the last event of an operation whose log lacks it: it never began, or its end could not be logged.
func end(op *Operation) client.Event {
	switch {
	case op.Result != nil:
		return client.Event{Done: op.Result}
	case op.Error != nil:
		return client.Event{Error: op.Error}
	case op.State == Replaced:
		return client.Event{Error: &bulwark.Error{Kind: bulwark.KindConflict, Message: "A newer push took the place of this one while it waited.", Hint: "Nothing to do: the newer one is being deployed."}}
	}
	return client.Event{Error: &bulwark.Error{Kind: bulwark.KindCanceled, Message: "It was canceled."}}
}

// read passes on what a log has from offset; last tells that the final event was among it, n how many bytes were read.
func (l *logs) read(id bulwark.OperationID, offset int64, f func(client.Event) error) (last bool, n int64, err error) {
	file, err := os.Open(l.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return false, 0, err
	}
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return false, n, nil // an unfinished line is read again
		}
		if err != nil {
			return false, n, err
		}
		n += int64(len(line))
		var e client.Event
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if err := f(e); err != nil {
			return false, n, err
		}
		if e.Done != nil || e.Error != nil {
			return true, n, nil
		}
	}
}

// Package applogs keeps one bounded log per app: the lines of all its instances, in the order in which they came, each with
// its time and the instance's name. It promises that a log never takes more than two files of a fixed size, however much
// an app prints, and that what an instance printed before it ended can still be read.
//
// The lines are the apps' own words: bounded in length, without control characters, and never interpreted. Whoever owns
// the node can read and change them; they are for finding faults, not evidence.
package applogs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Line is one line of an app's log.
type Line struct {
	At   time.Time
	Name string // "web.1"
	Text string
}

// MaxSize is how large a file grows before it becomes the older one and the older one goes; in bytes.
const MaxSize = 8 << 20

// Store keeps logs in a directory.
type Store struct {
	dir  string
	mu   sync.Mutex // guards open and news
	open map[bulwark.AppID]*os.File
	news chan struct{}
}

// Open makes the directory.
func Open(dir string) (*Store, error) {
	return &Store{dir: dir, open: map[bulwark.AppID]*os.File{}, news: make(chan struct{})}, os.MkdirAll(dir, 0o700)
}

func (s *Store) path(app bulwark.AppID) string { return filepath.Join(s.dir, string(app)+".log") }

// Append adds lines to an app's log.
func (s *Store) Append(app bulwark.AppID, lines []Line) error {
	if len(lines) == 0 {
		return nil
	}
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %s %s\n", l.At.UTC().Format(time.RFC3339Nano), l.Name, l.Text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.file(app)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(b.String()); err != nil {
		return err
	}
	close(s.news)
	s.news = make(chan struct{})
	return nil
}

// file returns the file that an app's lines go to, after a change of files if the old one is full. The caller holds mu.
func (s *Store) file(app bulwark.AppID) (*os.File, error) {
	f := s.open[app]
	if f != nil {
		st, err := f.Stat()
		if err == nil && st.Size() < MaxSize {
			return f, nil
		}
		f.Close()
		delete(s.open, app)
		if err := os.Rename(s.path(app), s.path(app)+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	f, err := os.OpenFile(s.path(app), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s.open[app] = f
	return f, nil
}

// Apps returns the apps that have a log.
func (s *Store) Apps() ([]bulwark.AppID, error) {
	entries, err := os.ReadDir(s.dir)
	var out []bulwark.AppID
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".log")
		if app, err := bulwark.ParseAppID(name); err == nil && !slices.Contains(out, app) {
			out = append(out, app)
		}
	}
	return out, err
}

// Remove forgets an app's log.
func (s *Store) Remove(app bulwark.AppID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.open[app]; f != nil {
		f.Close()
		delete(s.open, app)
	}
	return errors.Join(gone(os.Remove(s.path(app))), gone(os.Remove(s.path(app)+".1")))
}

func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

// Read passes the last lines of an app's log to f, and new ones as they come if follow is set, until ctx ends.
func (s *Store) Read(ctx context.Context, app bulwark.AppID, tail int, follow bool, f func(Line) error) error {
	lines, file, err := s.tail(app, tail)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := f(l); err != nil {
			return err
		}
	}
	if file == nil && !follow {
		return nil
	}
	defer func() {
		if file != nil {
			file.Close()
		}
	}()
	for follow {
		wake := s.wait()
		if file, err = s.more(app, file, f); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
	return nil
}

// more passes on what was added to file since it was read, and changes over to the next file when it was replaced.
func (s *Store) more(app bulwark.AppID, file *os.File, f func(Line) error) (*os.File, error) {
	for {
		if file == nil {
			next, err := os.Open(s.path(app))
			if errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			file = next
		}
		if err := each(file, f); err != nil {
			return file, err
		}
		now, err := os.Stat(s.path(app))
		mine, merr := file.Stat()
		if err != nil || merr != nil || os.SameFile(now, mine) {
			return file, nil
		}
		// It was replaced; what came between the last look and the change is still in it.
		err = each(file, f)
		file.Close()
		file = nil
		if err != nil {
			return nil, err
		}
	}
}

// each reads whole lines from where file stands, and leaves it behind the last whole one.
func each(file *os.File, f func(Line) error) error {
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	r := bufio.NewReader(file)
	for {
		text, err := r.ReadString('\n')
		if err != nil {
			_, err = file.Seek(at, io.SeekStart)
			return err
		}
		at += int64(len(text))
		if l, ok := parse(text); ok {
			if err := f(l); err != nil {
				return err
			}
		}
	}
}

// tail returns the last n lines and the present file, open behind them.
func (s *Store) tail(app bulwark.AppID, n int) (lines []Line, file *os.File, err error) {
	keep := func(l Line) error {
		if lines = append(lines, l); n > 0 && len(lines) > 2*n {
			lines = append(lines[:0], lines[len(lines)-n:]...)
		}
		return nil
	}
	for _, path := range []string{s.path(app) + ".1", s.path(app)} {
		if file != nil {
			file.Close()
		}
		file, err = os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			file = nil
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if err := each(file, keep); err != nil {
			file.Close()
			return nil, nil, err
		}
	}
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines, file, nil
}

func parse(text string) (Line, bool) {
	at, rest, ok := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
	if !ok {
		return Line{}, false
	}
	name, body, ok := strings.Cut(rest, " ")
	t, err := time.Parse(time.RFC3339Nano, at)
	return Line{At: t, Name: name, Text: body}, ok && err == nil
}

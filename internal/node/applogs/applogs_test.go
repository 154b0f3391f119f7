package applogs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

const app = bulwark.AppID("app_00000000000000000000000000")

func lines(from, to int) (out []Line) {
	for i := from; i < to; i++ {
		out = append(out, Line{At: time.Unix(int64(i), 0), Name: "web.1", Text: fmt.Sprint("line ", i)})
	}
	return out
}

func TestTailAndFollow(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append(app, lines(0, 10)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.Read(ctx, app, 3, true, func(l Line) error { got <- l.Name + " " + l.Text; return nil })
	}()
	for _, want := range []string{"web.1 line 7", "web.1 line 8", "web.1 line 9"} {
		if g := <-got; g != want {
			t.Fatalf("got %q, want %q", g, want)
		}
	}
	if err := s.Append(app, lines(10, 11)); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != "web.1 line 10" {
		t.Fatalf("got %q", g)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// However much an app prints, its log takes two files of MaxSize and a follower misses nothing when they change.
func TestBoundedAndWhole(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const total = 60
	next := make(chan int)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		i := 0
		done <- s.Read(ctx, app, 0, true, func(l Line) error {
			if !strings.HasSuffix(l.Text, fmt.Sprint(" ", i)) {
				return fmt.Errorf("got line …%s, want %d", l.Text[len(l.Text)-8:], i)
			}
			next <- i
			i++
			return nil
		})
	}()
	big := strings.Repeat("x", MaxSize/10)
	for i := range total {
		if err := s.Append(app, []Line{{At: time.Unix(1, 0), Name: "web.1", Text: fmt.Sprint(big, " ", i)}}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-next:
		case err := <-done:
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	var size int64
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		st, _ := e.Info()
		size += st.Size()
	}
	if size > 2*(MaxSize+MaxSize/5) {
		t.Errorf("the log takes %d bytes", size)
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
)

func TestExitCodes(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want int
	}{
		"fine":                    {context.Background(), nil, 0},
		"failure":                 {context.Background(), bulwark.Failf(bulwark.KindFailed, "It failed."), 1},
		"unknown failure":         {context.Background(), errors.New("eof"), 1},
		"misuse":                  {context.Background(), misuse("No.", ""), 2},
		"Ctrl-C":                  {canceled, context.Canceled, 130},
		"Ctrl-C, wrapped":         {canceled, errors.Join(errors.New("read"), context.Canceled), 130},
		"a failure before Ctrl-C": {canceled, bulwark.Failf(bulwark.KindFailed, "It failed."), 1},
		"canceled by another":     {context.Background(), bulwark.Failf(bulwark.KindCanceled, "Somebody stopped it."), 1},
	} {
		e := testEnv(t)
		root := newRoot(e, &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return c.err }})
		if got := execute(c.ctx, e, root, []string{"x"}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// What takes less than a second leaves no trace; what takes longer tells of itself, on a terminal with a line that goes
// away again.
func TestProgress(t *testing.T) {
	for _, c := range []struct {
		tty  bool
		d    time.Duration
		want string
	}{
		{false, 900 * time.Millisecond, ""}, {true, 900 * time.Millisecond, ""}, {false, 5 * time.Second, "Waiting...\n"},
		{true, 1050 * time.Millisecond, "\r\x1b[K| Waiting\r\x1b[K"}, {true, 1150 * time.Millisecond, "\r\x1b[K| Waiting\r\x1b[K/ Waiting\r\x1b[K"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			e := testEnv(t)
			e.stderr, e.stderrTTY = &out, c.tty
			if err := (&cli{env: e}).during("Waiting", func() error { time.Sleep(c.d); return nil }); err != nil || out.String() != c.want {
				t.Errorf("%v, %v: %q, %v; want %q", c.tty, c.d, out.String(), err, c.want)
			}
		})
	}
}

// A question that nobody answers ends with Ctrl-C.
func TestAskEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		never := make(chan struct{})
		defer close(never)
		_, err := awaited(ctx, &bytes.Buffer{}, func() (string, error) { <-never; return "", nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestSure(t *testing.T) {
	for _, c := range []struct {
		typed   string
		tty, ok bool
	}{{"v12\n", true, true}, {"v1\n", true, false}, {"\n", true, false}, {"", true, false}, {"", false, true}} {
		e := testEnv(t)
		e.stdin, e.stdinTTY = bytes.NewReader([]byte(c.typed)), c.tty
		if err := (&cli{env: e}).sure(context.Background(), "v12"); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestConfirm(t *testing.T) {
	for _, c := range []struct {
		given, typed string
		tty, ok      bool
	}{
		{"shop", "", false, true}, {"shop", "", true, true}, {"other", "shop\n", true, false}, {"", "shop\n", true, true}, {"", "Shop\n", true, false},
		{"", "\n", true, false}, {"", "", true, false}, {"", "shop\n", false, false},
	} {
		e := testEnv(t)
		e.stdin, e.stdinTTY = bytes.NewReader([]byte(c.typed)), c.tty
		if err := (&cli{env: e}).confirm(context.Background(), c.given, "shop", "It goes away."); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/node/applogs"
)

// How an instance's output is collected. The instance's own shim appends to a file, so that output is lost with no
// process of ours; the collector moves it on into the app's log and gives the space back.
const (
	collectEvery = 100 * time.Millisecond
	punchAfter   = 1 << 20  // bytes that were moved on
	maxLogLine   = 16 << 10 // of an app's line; the rest of a longer one goes on in the next
)

// collect moves an instance's output into its app's log until the instance is gone and all was read.
func (n *instances) collect(ctx context.Context, i *instance) {
	raw := n.logFile(i.Instance.Instance)
	c := &collector{n: n, i: i, raw: raw, at: readOffset(raw + ".at")}
	for {
		last := false
		select {
		case <-i.gone:
			last = true
		case <-ctx.Done():
			return
		case <-time.After(collectEvery):
		}
		if err := c.move(last); err != nil {
			n.log.Warn("output is not collected", "instance", i.Instance.Instance, "error", err)
		}
		if last {
			return
		}
	}
}

// collector is the state of collecting one instance.
type collector struct {
	n       *instances
	i       *instance
	raw     string
	at      int64 // how far the raw file was moved on
	punched int64
}

// move moves on what is new; all has an unfinished line count too.
func (c *collector) move(all bool) error {
	f, err := os.OpenFile(c.raw, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	before := c.at
	for {
		lines, next, err := c.read(f, all)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			break
		}
		if err := c.n.applogs.Append(c.i.App, lines); err != nil {
			return err
		}
		c.at = next
	}
	if c.at == before {
		return nil
	}
	if c.at-c.punched > punchAfter {
		// The file keeps its offsets, so that whoever reads or appends is not disturbed; the disk gets its blocks back.
		c.punched = c.at &^ 4095
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, c.punched); err != nil {
			c.n.log.Debug("a log's space cannot be given back", "error", err)
		}
	}
	return os.WriteFile(c.raw+".at", []byte(strconv.FormatInt(c.at, 10)), 0o600)
}

// read reads up to a thousand lines from where the collector stands.
func (c *collector) read(f *os.File, all bool) (lines []applogs.Line, next int64, err error) {
	next = c.at
	if _, err := f.Seek(next, io.SeekStart); err != nil {
		return nil, next, err
	}
	r := bufio.NewReaderSize(f, maxLogLine)
	now := time.Now()
	for len(lines) < 1000 {
		b, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && (!all || len(b) == 0) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return lines, next, err
		}
		next += int64(len(b))
		lines = append(lines, applogs.Line{At: now, Name: c.i.name, Text: clean(strings.TrimRight(string(b), "\r\n"))})
	}
	return lines, next, nil
}

func readOffset(path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	at, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return at
}

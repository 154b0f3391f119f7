package supervise

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// logEvery is how often the sizes are looked at. A process that floods its log can outrun it by what the disk takes in
// that time.
const logEvery = time.Second

// openLog opens a log for a process to append to. A file and not a pipe: a process must be able to write while there is no
// supervisor.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	return f, nil
}

// rotateLogs keeps the logs small until ctx ends; the channel is closed after that.
func (s *supervisor) rotateLogs(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(logEvery)
		defer t.Stop()
		var forgot time.Time
		for {
			now := time.Now()
			if since := now.Sub(forgot); since >= forgetEvery || since < 0 {
				s.forgetLogs(now)
				forgot = now
			}
			for _, u := range s.units {
				if err := rotate(u.logPath(), s.cfg.LogLimit); err != nil {
					s.log.Error("cannot rotate a log", "process", u.spec.Name, "error", err)
				}
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// forgetLogs takes out of the logs what they are not to keep for longer. It is never done while one is rotated.
func (s *supervisor) forgetLogs(now time.Time) {
	for _, u := range s.units {
		if u.spec.Forget == nil {
			continue
		}
		for _, suffix := range []string{"", ".1", ".2"} {
			if err := forget(u.logPath()+suffix, u.spec.Forget, now); err != nil {
				s.log.Error("cannot take old addresses out of a log", "process", u.spec.Name, "error", err)
			}
		}
	}
}

// rotate moves the content of a log that is above limit to path.1, and that of path.1 to path.2. The processes keep
// writing to the same file, so its beginning is copied and cut off.
func rotate(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() <= limit {
		return err
	}
	if err := os.Rename(path+".1", path+".2"); err != nil && !os.IsNotExist(err) {
		return err
	}
	old, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	defer old.Close()
	cut := wholeBlocks(f, st.Size())
	from := max(0, cut-2*limit) // the flood of a second may be larger than all that is kept: its end is
	if _, err := io.Copy(old, io.NewSectionReader(f, from, cut-from)); err != nil {
		return err
	}
	return cutFront(f, old, cut)
}

// wholeBlocks returns how much of the beginning can be cut off in one piece, leaving at least a byte.
func wholeBlocks(f *os.File, size int64) int64 {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Bsize <= 0 {
		return size
	}
	return (size - 1) / st.Bsize * st.Bsize
}

// cutFront removes the first cut bytes, which old has. Where the file system can take blocks out of a file (ext4, XFS)
// nothing is lost; elsewhere what is written between the last read and the truncation is.
func cutFront(f, old *os.File, cut int64) error {
	if cut > 0 && unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, cut) == nil {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := io.Copy(old, io.NewSectionReader(f, cut, st.Size()-cut)); err != nil {
		return err
	}
	return f.Truncate(0)
}

package supervise

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// forgetEvery is how often logs are looked through for what is not to be kept for longer.
const forgetEvery = time.Hour

// forgetLine bounds a line that is looked at; nothing of ours writes a longer one.
const forgetLine = 64 << 10

// forget has f change the whole lines of a log, in place and without changing their length: the process goes on writing behind them.
func forget(path string, f func(line []byte, now time.Time) bool, now time.Time) error {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(io.NewSectionReader(file, 0, 1<<62), forgetLine)
	var line []byte
	for at := int64(0); ; {
		piece, err := r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			at += int64(len(piece))
			continue // the rest of it begins like no line of ours
		}
		if err == io.EOF {
			return nil // one that is still being written
		}
		if err != nil {
			return err
		}
		line = append(line[:0], piece...)
		if f(line, now) && len(line) == len(piece) && !bytes.Equal(line, piece) {
			if _, err := file.WriteAt(line, at); err != nil {
				return err
			}
		}
		at += int64(len(piece))
	}
}

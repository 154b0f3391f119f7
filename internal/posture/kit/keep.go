package kit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// report writes a report to the standard output, or into a file: what a build step prints goes through logs that have bounds.
func (o *options) report(r *Report, stdout io.Writer) error {
	if o.out == "" {
		return r.write(stdout)
	}
	var b bytes.Buffer
	if err := r.write(&b); err != nil {
		return err
	}
	return os.WriteFile(o.out, b.Bytes(), 0o644) //nolint:gosec // a report holds no secret, and another user reads it
}

// show prints a report that was written to a file.
func show(file string, stdout io.Writer) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxReport))
	if err != nil {
		return err
	}
	r, err := Parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return r.write(stdout)
}

// mask hides a marker on its way to who searches for it: else it would be found in the search's own arguments.
const mask = 0x55

func unmask(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 || len(b) > 1<<12 {
		return nil, errors.New("not hexadecimal")
	}
	for i := range b {
		b[i] ^= mask
	}
	return b, nil
}

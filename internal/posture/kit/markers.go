package kit

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what is searched. A search that meets one says so: what it did not find is then not known to be absent.
const (
	maxFiles   = 300_000
	maxBytes   = 8 << 30
	searchTime = 3 * time.Minute
	maxNesting = 3 // a gzip in a gzip in a gzip
)

// pattern is a marker in one of the forms in which it may have been put away.
type pattern struct {
	marker int
	form   string
	bytes  []byte
}

// patterns are a marker as it is, in hexadecimal of either case, and in both alphabets of base64, wherever in the encoded
// text it begins: at each of three offsets, without the ends, whose letters depend on what is around it.
func patterns(markers [][]byte) []pattern {
	var out []pattern
	for i, m := range markers {
		out = append(out, pattern{i, "plain", m},
			pattern{i, "hex", []byte(hex.EncodeToString(m))}, pattern{i, "hex", []byte(strings.ToUpper(hex.EncodeToString(m)))})
		for shift := range 3 {
			for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := alphabet.EncodeToString(append(make([]byte, shift), m...))
				begin := []int{0, 2, 3}[shift]
				end := (shift + len(m)) * 8 / 6
				out = append(out, pattern{i, "base64", []byte(text[begin:end])})
			}
		}
	}
	return out
}

// search looks for markers in streams.
type search struct {
	patterns []pattern
	found    map[int]string // where each was found first
	overlap  int
	files    int
	bytes    int64
	end      time.Time
	cut      string // the bound that was met
}

func newSearch(markers [][]byte) *search {
	s := &search{patterns: patterns(markers), found: map[int]string{}, end: time.Now().Add(searchTime)}
	for _, p := range s.patterns {
		s.overlap = max(s.overlap, len(p.bytes))
	}
	return s
}

// file searches a file.
func (s *search) file(path string) {
	if s.files++; s.files > maxFiles {
		s.cut = "files"
		return
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return // what cannot be read holds nothing for an attacker
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil || !i.Mode().IsRegular() {
		return
	}
	if i.Size() == 0 { // as the kernel's own files say of themselves
		b, _ := io.ReadAll(io.LimitReader(f, piece))
		s.window(bytes.NewReader(b), int64(len(b)), path, 0)
		return
	}
	s.window(f, i.Size(), path, 0)
}

// window searches what can be read at any place, and the gzip streams that begin anywhere in it.
func (s *search) window(r io.ReaderAt, size int64, where string, depth int) {
	const step = 1 << 20
	b := make([]byte, min(size, int64(step+s.overlap)))
	for at := int64(0); at < size; at += step {
		n, err := r.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return
		}
		s.text(b[:n], where)
		if s.count(int64(min(n, step))); s.cut != "" {
			return
		}
		if depth == maxNesting {
			continue
		}
		magic := []byte{0x1f, 0x8b, 8}
		for from := 0; from < step; from += len(magic) {
			i := bytes.Index(b[min(from, n):n], magic)
			if i < 0 || from+i >= step {
				break
			}
			from += i
			s.gzip(io.NewSectionReader(r, at+int64(from), size), where+" (gzip)", depth+1)
		}
	}
}

// piece is how much of a gzip stream is unpacked at a time.
const piece = 4 << 20

// gzip searches one stream as far as it can be unpacked: most places that look like the beginning of one are not.
func (s *search) gzip(r io.Reader, where string, depth int) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return
	}
	z.Multistream(false)
	var kept []byte
	for s.cut == "" {
		b, err := io.ReadAll(io.LimitReader(z, piece))
		if all := append(kept, b...); len(b) > 0 { //nolint:gocritic // a new slice is wanted
			s.window(bytes.NewReader(all), int64(len(all)), where, depth)
			kept = bytes.Clone(all[max(0, len(all)-s.overlap):])
		}
		if err != nil || len(b) < piece {
			return
		}
	}
}

func (s *search) count(n int64) {
	s.bytes += n
	switch {
	case s.bytes > maxBytes:
		s.cut = "bytes"
	case time.Now().After(s.end):
		s.cut = "time"
	}
}

func (s *search) text(b []byte, where string) {
	for _, p := range s.patterns {
		if _, have := s.found[p.marker]; !have && bytes.Contains(b, p.bytes) {
			s.found[p.marker] = fmt.Sprintf("%s, in %s", p.form, where)
		}
	}
}

// attempts says for each marker whether it was found. The marker itself is not said.
func (s *search) attempts(markers int) []Attempt {
	var out []Attempt
	for i := range markers {
		where, have := s.found[i]
		o := refused("not in %d files and %d bytes", s.files, s.bytes)
		switch {
		case have:
			o = reached("%s", where)
		case s.cut != "":
			o = untried("the search was cut short by the bound of %s", s.cut)
		}
		out = append(out, Attempt{Name: fmt.Sprintf("find marker %d", i+1)}.with(o))
	}
	return out
}

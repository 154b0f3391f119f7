package main

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
)

// site serves the files of a directory.
type site struct{ root *os.Root }

// ServeHTTP implements [http.Handler].
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if name == "" {
		name = "."
	}
	if hidden(name) {
		s.notFound(w, r)
		return
	}
	f, info := s.open(name)
	if f != nil && info.IsDir() {
		f.Close()
		if !strings.HasSuffix(r.URL.Path, "/") {
			if s.has(path.Join(name, "index.html")) {
				redirect(w, r, "/"+name+"/")
				return
			}
			s.notFound(w, r)
			return
		}
		name = path.Join(name, "index.html")
		f, info = s.open(name)
	} else if f == nil && !strings.HasSuffix(r.URL.Path, "/") && path.Ext(name) == "" {
		name += ".html"
		f, info = s.open(name)
	}
	if f == nil || !info.Mode().IsRegular() {
		if f != nil {
			f.Close()
		}
		s.notFound(w, r)
		return
	}
	defer f.Close()
	setCache(w.Header(), name, info)
	// A name is given for its type only; the time is in the ETag, for files of an image may all have the same.
	http.ServeContent(w, r, name, info.ModTime(), f)
}

// redirect sends to a path of this site: "//host" would be another, so the path is made of a clean one.
func redirect(w http.ResponseWriter, r *http.Request, to string) {
	if q := r.URL.RawQuery; q != "" {
		to += "?" + q
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

// hidden reports whether a part of the path begins with a dot, such as .git or .env.
func hidden(name string) bool {
	for i, part := range strings.Split(name, "/") {
		if part != "." && strings.HasPrefix(part, ".") && !(i == 0 && part == ".well-known") {
			return true
		}
	}
	return false
}

func (s *site) open(name string) (*os.File, fs.FileInfo) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil
	}
	return f, info
}

func (s *site) has(name string) bool {
	info, err := s.root.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// setCache lets browsers keep what has a hash in its name for a year, and ask again for everything else.
func setCache(h http.Header, name string, info fs.FileInfo) {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s %d %d", name, info.Size(), info.ModTime().UnixNano())
	h.Set("ETag", `"`+hex.EncodeToString(sum.Sum(nil))+`"`)
	if fingerprinted(path.Base(name)) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "public, max-age=0, must-revalidate")
	}
}

// fingerprinted reports whether a file's name holds a hash, as bundlers write it: "app.3f9a1c2b.js", "index-B4x9Qz1k.css".
func fingerprinted(base string) bool {
	base = strings.TrimSuffix(base, path.Ext(base))
	i := strings.LastIndexAny(base, ".-")
	if i < 1 {
		return false
	}
	hash := base[i+1:]
	digits := 0
	for _, c := range hash {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		default:
			return false
		}
	}
	return len(hash) >= 8 && digits >= 1 && digits < len(hash)
}

func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	f, info := s.open("404.html")
	if f == nil || !info.Mode().IsRegular() {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusNotFound)
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, f) // the reader is gone, or the file is
	}
}

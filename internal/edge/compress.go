package edge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// compressFrom is the length from which on an answer is worth it: a shorter one fits into a packet anyway.
	compressFrom = 1024
	// compressMost bounds the answers that are compressed at a time, each of which takes up to two megabytes; the others go as they are.
	compressMost = 32
	// compressShare is how many of them may be one app's.
	compressShare = 12
	zstdWindow    = 256 << 10
)

// encoder compresses what is written to it.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// coding is a content coding of RFC 9110 §8.4.1 (zstd: RFC 8878, br: RFC 7932).
type coding struct {
	name string
	pool sync.Pool // of encoder
}

// codings are what answers are compressed by, the one preferred first.
var codings = []*coding{
	{name: "zstd", pool: sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderLevel(zstd.SpeedDefault))
		if err != nil {
			panic(err) // of options that are constant
		}
		return encoder(e)
	}}},
	{name: "br", pool: sync.Pool{New: func() any {
		return encoder(brotli.NewWriterOptions(nil, brotli.WriterOptions{Quality: 4, LGWin: 18}))
	}}},
	{name: "gzip", pool: sync.Pool{New: func() any {
		e, err := gzip.NewWriterLevel(nil, 5)
		if err != nil {
			panic(err)
		}
		return encoder(e)
	}}},
}

// compressing is one answer that is being compressed.
type compressing struct {
	x    *exchange
	by   *coding
	enc  encoder
	made bytes.Buffer // by enc, and not sent yet
	// client is whose line the work waits in, as all of its requests do.
	client string
}

// compressions counts the answers of all apps that are being compressed.
type compressions struct{ now atomic.Int32 }

// compress has the answer compressed whose header is about to be sent, if the client takes that and it harms nobody; nil: it goes as it is.
func (x *exchange) compress(h http.Header, resp *http.Response) *compressing {
	if !compressible(h, resp) {
		return nil
	}
	if !hasToken(h["Vary"], "Accept-Encoding") && !hasToken(h["Vary"], "*") {
		h["Vary"] = append(h["Vary"][:len(h["Vary"]):len(h["Vary"])], "Accept-Encoding") // what goes uncompressed, too, is one of several forms
	}
	by := preferredCoding(x.r.Header["Accept-Encoding"])
	if by == nil || x.r.Method == http.MethodHead || resp.ContentLength >= 0 && resp.ContentLength < compressFrom || x.leaks(h) || x.e.turns.isShort() {
		return nil
	}
	if !x.enterCompression() {
		return nil
	}
	c := &compressing{x: x, by: by, enc: by.pool.Get().(encoder), client: x.client}
	if at, err := netip.ParseAddr(x.client); err == nil {
		c.client = network(at.Unmap()).String()
	}
	c.enc.Reset(&c.made)
	h["Content-Encoding"] = []string{by.name}
	delete(h, "Content-Length")
	delete(h, "Accept-Ranges") // of the answer as the app has it
	if tag := h["Etag"]; len(tag) == 1 && strings.HasPrefix(tag[0], `"`) {
		h["Etag"] = []string{"W/" + tag[0]} // not the same bytes any more (RFC 9110 §8.8.1)
	}
	return c
}

func (x *exchange) enterCompression() bool {
	if x.e.compressions.now.Add(1) <= compressMost {
		if x.guard.compressing.Add(1) <= compressShare {
			return true
		}
		x.guard.compressing.Add(-1)
	}
	x.e.compressions.now.Add(-1)
	return false
}

// write compresses a piece of the answer, by the app's turn like all that costs something, and sends what came of it.
func (c *compressing) write(b []byte, flush, end bool) error {
	turn := c.x.e.turns.take(c.x.r.Context(), c.x.guard, c.client) // without one, after some seconds, since the answer has begun
	_, err := c.enc.Write(b)
	if end {
		err = errors.Join(err, c.enc.Close())
	} else if flush {
		err = errors.Join(err, c.enc.Flush())
	}
	if turn {
		c.x.e.turns.give() // before the client is waited for
	}
	if err != nil {
		return err
	}
	n, err := c.x.w.Write(c.made.Bytes())
	c.x.out += int64(n)
	c.made.Reset()
	return err
}

// release gives back what it took.
func (c *compressing) release() {
	c.enc.Reset(nil)
	c.by.pool.Put(c.enc)
	c.x.guard.compressing.Add(-1)
	c.x.e.compressions.now.Add(-1)
}

// compressible says that an answer gains from it and is the app's to be changed: nothing that is encoded already, a part of a whole, signed over, or
// not to be transformed (RFC 9111 §5.2.2.6).
func compressible(h http.Header, resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusNoContent, http.StatusPartialContent, http.StatusNotModified:
		return false
	}
	for _, k := range []string{"Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		if _, has := h[k]; has {
			return false
		}
	}
	if resp.ContentLength == 0 || hasToken(h["Cache-Control"], "no-transform") || len(h["Content-Type"]) != 1 {
		return false
	}
	kind, _, _ := strings.Cut(h["Content-Type"][0], ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if strings.HasPrefix(kind, "text/") {
		return kind != "text/event-stream" // each event on its own gains little and waits
	}
	switch kind {
	case "application/json", "application/javascript", "application/xml", "application/wasm", "application/manifest+json", "application/x-javascript",
		"application/graphql-response+json", "application/vnd.ms-fontobject", "image/svg+xml", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon", "font/ttf", "font/otf":
		return true
	}
	return strings.HasPrefix(kind, "application/") && (strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml"))
}

// leaks says that the length of the answer, once compressed, could tell a stranger what is in it (BREACH, CVE-2013-3587): it may hold a secret
// of whoever is signed in, and a stranger may have had their browser ask for it with guesses. So what goes to somebody with credentials is
// compressed only where the browser says that the app itself asked, or the person by hand. Other apps of the same site are strangers here.
func (x *exchange) leaks(h http.Header) bool {
	if hasToken(h["Cache-Control"], "public") {
		return false // the app says that it is everybody's
	}
	_, sets := h["Set-Cookie"]
	if !sets && anonymous(x.r) {
		return false
	}
	from := x.r.Header["Sec-Fetch-Site"]
	return len(from) != 1 || from[0] != "same-origin" && from[0] != "none"
}

// hasCookie says that there is one beside the edge's own.
func hasCookie(values []string) bool {
	for _, v := range values {
		if withoutPass(v) != "" {
			return true
		}
	}
	return false
}

// preferredCoding is the coding that the client likes best, of those that it likes alike the one that we prefer; nil: none (RFC 9110 §12.5.3).
func preferredCoding(values []string) *coding {
	var best *coding
	most := 0.0
	likes := func(name string) float64 {
		q, any := -1.0, 0.0
		for _, v := range values {
			for v != "" {
				var t string
				t, v, _ = strings.Cut(v, ",")
				t, weight, _ := strings.Cut(t, ";")
				switch t = strings.TrimSpace(t); {
				case strings.EqualFold(t, name):
					q = quality(weight)
				case t == "*":
					any = quality(weight)
				}
			}
		}
		if q < 0 {
			return any
		}
		return q
	}
	if len(values) == 0 {
		return nil
	}
	for _, c := range codings {
		if q := likes(c.name); q > most {
			best, most = c, q
		}
	}
	return best
}

// quality reads a weight such as "q=0.5"; one that cannot be read is none.
func quality(s string) float64 {
	s = strings.TrimSpace(s)
	if s == "" {
		return 1
	}
	name, number, _ := strings.Cut(s, "=")
	if !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}

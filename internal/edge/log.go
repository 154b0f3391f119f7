package edge

import (
	"context"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	logRoom  = 1 << 20               // bytes of lines that wait for the writer; more are dropped
	logBatch = 50 * time.Millisecond // how long lines gather, so that one write takes many
)

// accessLog writes lines to a writer that may be slow, and never makes a request wait for it.
type accessLog struct {
	out     io.Writer
	wake    chan struct{}
	dropped atomic.Uint64
	recent  recent

	mu    sync.Mutex
	lines []byte
	spare []byte
}

func newAccessLog(out io.Writer) *accessLog {
	return &accessLog{out: out, wake: make(chan struct{}, 1)}
}

// add takes a line, or drops it if the writer is too far behind.
func (l *accessLog) add(line []byte) {
	l.mu.Lock()
	if len(l.lines)+len(line) > logRoom {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	first := len(l.lines) == 0
	l.lines = append(l.lines, line...)
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx ends, then what is left.
func (l *accessLog) run(ctx context.Context) {
	if l.out == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return
		case <-l.wake:
		}
		gather := time.NewTimer(logBatch)
		select {
		case <-gather.C:
		case <-ctx.Done():
			gather.Stop()
		}
		l.flush()
	}
}

func (l *accessLog) flush() {
	l.mu.Lock()
	lines := l.lines
	l.lines, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	// A log that cannot be written is noticed by whoever reads it: it must not stop the serving.
	_, _ = l.out.Write(lines)
	l.recent.add(lines)
	l.mu.Lock()
	l.spare = lines[:0]
	l.mu.Unlock()
}

// appendLine writes the request's line. Strings that came from the client are escaped.
func (x *exchange) appendLine(b []byte, end time.Time) []byte {
	b = append(b, `{"time":"`...)
	b = x.start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","id":"`...)
	b = append(b, x.id...)
	b = append(b, '"')
	if x.app != nil {
		b = text(b, `,"app":`, string(x.app.id))
		b = text(b, `,"name":`, string(x.app.set.Load().name))
	}
	if x.inst != nil {
		b = text(b, `,"instance":`, string(x.inst.id))
	}
	b = text(b, `,"method":`, x.r.Method)
	b = text(b, `,"host":`, string(x.host))
	b = text(b, `,"path":`, x.path())
	b = number(b, `,"status":`, int64(x.status))
	b = number(b, `,"in":`, x.in.Load())
	b = number(b, `,"out":`, x.out)
	b = millis(b, `,"queue_ms":`, x.queued)
	b = millis(b, `,"first_ms":`, x.first)
	b = millis(b, `,"total_ms":`, end.Sub(x.start))
	b = text(b, `,"proto":`, x.r.Proto)
	b = text(b, `,"client":`, x.client)
	if x.fault != "" {
		b = text(b, `,"fault":`, x.fault)
	}
	if x.span.id != "" {
		b = text(b, `,"trace":`, x.span.trace)
		b = text(b, `,"span":`, x.span.id)
		if x.span.parent != "" {
			b = text(b, `,"parent":`, x.span.parent)
		}
	}
	return append(b, "}\n"...)
}

func number(b []byte, key string, n int64) []byte {
	return strconv.AppendInt(append(b, key...), n, 10)
}

// millis writes d in milliseconds with three decimals.
func millis(b []byte, key string, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(append(b, key...), us/1000, 10)
	us %= 1000
	return append(b, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
}

// text writes a key and a JSON string; what is not plain ASCII is escaped, so that a line can neither be broken nor
// drive a terminal.
func text(b []byte, key, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(append(b, key...), '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c >= 0x20 && c < 0x7f:
			b = append(b, c)
			i++
		case c < utf8.RuneSelf:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			i += n
			if r > 0xffff || r == utf8.RuneError {
				r = '\ufffd'
			}
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
	}
	return append(b, '"')
}

package gitssh

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
)

const (
	// maxLine is where a line is broken that does not end.
	maxLine = 4096
	// patience is how long one push may wait, all in all, for a client that does not read: a stalled terminal must not
	// hold up a deploy. After that the client gets no more lines, and the deploy goes on.
	patience = 2 * time.Minute
	// mark stands before every line that says why something was refused, as people know it from Heroku.
	mark = " !     "
)

// progress carries lines to the user: whole lines, without anything that drives a terminal but colours. It never
// fails and never blocks for longer than patience, so that the work that writes to it does not depend on who reads.
type progress struct {
	mu   sync.Mutex
	conn net.Conn // to the hook
	part []byte   // a line without its end
	left time.Duration
	dead bool
}

func newProgress(conn net.Conn, left time.Duration) *progress {
	return &progress{conn: conn, left: left}
}

// Write takes text; it is shown as soon as a line is whole.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return len(b), nil
	}
	p.part = append(p.part, b...)
	end := bytes.LastIndexAny(p.part, "\r\n") + 1
	if end == 0 && len(p.part) < maxLine {
		return len(b), nil
	}
	if end == 0 {
		end = len(p.part)
	}
	out := cleanLines(p.part[:end])
	p.part = append(p.part[:0], p.part[end:]...)
	p.send(hook.Text(out))
	return len(b), nil
}

// refuse shows an error: its sentence and its hint if it is one for users, else that the fault is ours.
func (p *progress) refuse(err error) { io.WriteString(p, refusal(err)) }

// exit ends the hook.
func (p *progress) exit(code byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.part) > 0 {
		p.send(hook.Text(cleanLines(p.part)))
		p.part = nil
	}
	p.send(hook.Exit(code))
}

func (p *progress) send(b []byte) {
	if p.dead || len(b) == 0 {
		return
	}
	start := time.Now()
	p.conn.SetWriteDeadline(start.Add(p.left))
	_, err := p.conn.Write(b)
	p.left -= time.Since(start)
	p.dead = err != nil || p.left <= 0
}

// refusal is an error as lines for the user.
func refusal(err error) string {
	e, ok := errors.AsType[*bulwark.Error](err)
	if !ok || e.Kind == bulwark.KindInternal {
		e = &bulwark.Error{Message: "Something went wrong inside Bulwark.",
			Hint: "Push again; if it stays so, the operator finds the cause in the server's log."}
	}
	text := e.Message
	if e.Hint != "" {
		text += "\n" + e.Hint
	}
	var b bytes.Buffer
	for line := range bytes.Lines([]byte(text)) {
		b.WriteString(mark)
		b.Write(bytes.TrimSuffix(line, []byte("\n")))
		b.WriteByte('\n')
	}
	return b.String()
}

// cleanLines returns text as lines that a terminal shows and does not obey: UTF-8, tabs, and the escape sequences for
// colour (ESC [ digits m), because builds print them. A lone carriage return ends a line, as progress bars use it.
func cleanLines(b []byte) []byte {
	out := make([]byte, 0, len(b)+1)
	col := 0
	for i := 0; i < len(b); {
		c := b[i]
		switch {
		case c == '\r' && i+1 < len(b) && b[i+1] == '\n':
			i++
			continue
		case c == '\n' || c == '\r':
			out, col = append(out, '\n'), 0
			i++
			continue
		case col >= maxLine:
			out, col = append(out, '\n'), 0
		}
		n := showable(b[i:])
		if n > 0 {
			out = append(out, b[i:i+n]...)
			col += n
			i += n
			continue
		}
		i++
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return out
}

// showable returns how many bytes at the start of b belong to one character or colour that may be shown; 0 if the
// first byte may not.
func showable(b []byte) int {
	if b[0] == 0x1b {
		return colour(b)
	}
	r, n := utf8.DecodeRune(b)
	control := r < 0x20 && r != '\t' || r >= 0x7f && r < 0xa0
	// Overrides of the writing direction make a line read as what it is not.
	bidi := r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	if r == utf8.RuneError && n == 1 || control || bidi {
		return 0
	}
	return n
}

func colour(b []byte) int {
	if len(b) < 3 || b[1] != '[' {
		return 0
	}
	for i := 2; i < len(b) && i < 24; i++ {
		switch c := b[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

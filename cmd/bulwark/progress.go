package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// patience is how long a person waits without being told for what.
const patience = time.Second

// progress tells on stderr what is being waited for, once it takes longer than patience: on a terminal a moving line
// that goes away, else one plain line.
type progress struct {
	c    *cli
	mu   sync.Mutex
	text string // what is waited for; empty shows nothing
	up   bool   // the moving line is on the screen
	said bool   // the plain line was printed
	stop chan struct{}
	done chan struct{}
}

// progress begins to wait; end must be called.
func (c *cli) progress(text string) *progress {
	p := &progress{c: c, text: clean(text), stop: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

// during is progress around f.
func (c *cli) during(text string, f func() error) error {
	p := c.progress(text)
	defer p.end()
	return f()
}

func (p *progress) run() {
	defer close(p.done)
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for frame := 0; ; frame++ {
		select {
		case <-p.stop:
			return
		case <-wait.C:
		}
		p.draw(frame)
		wait.Reset(100 * time.Millisecond)
	}
}

func (p *progress) draw(frame int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text == "" {
		return
	}
	if !p.c.stderrTTY {
		if !p.said && !p.c.json {
			fmt.Fprintln(p.c.stderr, p.text+"...")
		}
		p.said = true
		return
	}
	frames := []rune(`|/-\`)
	if p.c.utf8 {
		frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	}
	fmt.Fprintf(p.c.stderr, "\r\x1b[K%c %s", frames[frame%len(frames)], p.text)
	p.up = true
}

// set changes what is waited for.
func (p *progress) set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = clean(text)
}

// print writes a line to w without tearing the moving one.
func (p *progress) print(w io.Writer, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(w, line)
}

// clear takes the moving line away. The lock is held.
func (p *progress) clear() {
	if p.up {
		io.WriteString(p.c.stderr, "\r\x1b[K")
		p.up = false
	}
}

// end stops telling.
func (p *progress) end() {
	close(p.stop)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

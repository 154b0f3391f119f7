package edge

import (
	"sync"
	"time"
)

// What a client's connections may send beside requests that are answered and their bodies: frames of HTTP/2 that only cost time, requests that
// it takes back, a handshake after the other.
const (
	purseRate    = 256 << 10        // bytes a second, all connections of a client together
	purseMost    = 4 << 20          // bytes at once: more than HTTP/2 lets a client send of bodies before somebody has read them
	purseEarned  = 4 << 10          // bytes for each request that was answered: more than most heads take
	purseLongest = 10 * time.Second // that a read waits
)

// means are what one client may send; the zero value stands for purseRate and purseMost.
type means struct{ rate, most int64 }

func (a means) purse(now time.Time) *purse {
	if a == (means{}) {
		a = means{purseRate, purseMost}
	}
	return &purse{means: a, left: a.most, at: now}
}

// purse is what a client may still send. Who has spent it is read from more slowly, so that a flood is held up at its sender.
type purse struct {
	means
	mu   sync.Mutex // guards what follows
	left int64      // bytes; below 0 is owed
	at   time.Time  // when left was counted
	open int        // connections; under conns.mu
}

// fill adds what time has brought. The caller holds mu.
func (p *purse) fill(now time.Time) {
	p.left = min(p.most, p.left+int64(now.Sub(p.at).Seconds()*float64(p.rate)))
	p.at = now
}

// spend takes what came, and says how long to wait before more is read.
func (p *purse) spend(n int, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	if p.left -= int64(n); p.left >= 0 {
		return 0
	}
	return min(purseLongest, time.Duration(float64(-p.left)/float64(p.rate)*float64(time.Second)))
}

// earn gives back what was well spent.
func (p *purse) earn(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = min(p.most, p.left+n)
}

// full tells that there is nothing to remember.
func (p *purse) full(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	return p.left >= p.most
}

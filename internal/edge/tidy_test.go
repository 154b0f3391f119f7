package edge

import (
	"runtime/debug"
	"testing"
)

func TestWasted(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	debug.FreeOSMemory()
	if wasted() {
		t.Error("all that nobody uses was just given back")
	}
	left := make([][]byte, 0, 256)
	for range cap(left) {
		left = append(left, make([]byte, 1<<20))
	}
	if !wasted() {
		t.Error("memory that was asked for since the last collection may all be unused")
	}
	clear(left)
	debug.FreeOSMemory()
	if wasted() {
		t.Error("it was given back")
	}
}

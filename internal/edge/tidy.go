package edge

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// When what requests and handshakes left behind is given back: the runtime collects once as much again was asked for as is in use, which with ten
// thousand connections that do nothing is as much again as they take, for as long as they do nothing.
const (
	tidyTick  = 5 * time.Second
	tidyQuiet = 0.05     // of a processor: an edge that does more has its own collector come soon
	tidyLeast = 16 << 20 // bytes that nobody uses
)

// tidy gives memory back that nobody uses, whenever there is little to do, until ctx ends.
func tidy(ctx context.Context) {
	tick := time.NewTicker(tidyTick)
	defer tick.Stop()
	used := processorTime()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		took := processorTime() - used
		if took.Seconds() < tidyQuiet*tidyTick.Seconds() && wasted() {
			debug.FreeOSMemory()
		}
		used = processorTime() // what that took is no work
	}
}

// wasted tells whether so much memory is not in use that it is worth a collection.
func wasted() bool {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	live, objects, free := s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64()
	return objects > live+live/8+tidyLeast || free > live/8+tidyLeast
}

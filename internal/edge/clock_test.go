package edge

import (
	"testing"
	"time"
)

// An instance that refused a connection is passed over for a moment, not until a clock that was set back has come there again.
func TestAsideEndsWhenTheClockIsSetBack(t *testing.T) {
	for left, want := range map[time.Duration]bool{-time.Second: true, asideTime / 2: false, time.Hour: true, 365 * 24 * time.Hour: true} {
		set := &upstreams{instances: []*instance{{id: "ins_a"}, {id: "ins_b"}}}
		set.instances[0].aside.Store(time.Now().Add(left).UnixNano())
		a := &app{}
		a.set.Store(set)
		taken := false
		for range 64 {
			if i, _ := a.pick(nil); i != nil {
				taken = taken || i == set.instances[0]
			}
		}
		if taken != want {
			t.Errorf("an instance that is aside for %s more was taken: %v", left, taken)
		}
	}
}

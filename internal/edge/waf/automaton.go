package waf

import "errors"

// automaton finds which clauses a text meets, in one pass over it (Aho and Corasick), whatever the number of their literals. ASCII letters
// of both cases are one.
type automaton struct {
	kinds [256]uint8 // of bytes that no literal tells apart
	shift uint       // of a state in next
	next  []uint16
	first uint16     // states from this one on end a literal
	met   [][]uint16 // the clauses that they meet
}

// Bound of an automaton: its states are numbered by 16 bits.
const mostStates = 1 << 16

var errStates = errors.New("the literals of the rules are too many")

// newAutomaton makes one for clauses, which it calls by their index.
func newAutomaton(clauses []clause) (*automaton, error) {
	a := &automaton{}
	kinds := 1
	for _, c := range clauses {
		for _, l := range c {
			for i := range len(l) {
				if a.kinds[l[i]] == 0 {
					a.kinds[l[i]] = uint8(kinds) //nolint:gosec // literals are ASCII
					kinds++
				}
			}
		}
	}
	for c := 'A'; c <= 'Z'; c++ {
		a.kinds[c] = a.kinds[lower(byte(c))]
	}
	for 1<<a.shift < kinds {
		a.shift++
	}
	type state struct {
		to   map[uint8]int
		met  map[uint16]bool
		fail int
	}
	states := []*state{{to: map[uint8]int{}}}
	for id, c := range clauses {
		for _, l := range c {
			at := 0
			for i := range len(l) {
				k := a.kinds[l[i]]
				to, ok := states[at].to[k]
				if !ok {
					to = len(states)
					states = append(states, &state{to: map[uint8]int{}})
					states[at].to[k] = to
				}
				at = to
			}
			if states[at].met == nil {
				states[at].met = map[uint16]bool{}
			}
			states[at].met[uint16(id)] = true //nolint:gosec // there are some hundreds
		}
	}
	if len(states) >= mostStates {
		return nil, errStates
	}
	order := []int{0} // nearest to the beginning first
	for i := 0; i < len(order); i++ {
		s := states[order[i]]
		for k := range kinds {
			to, ok := s.to[uint8(k)] //nolint:gosec // see above
			if !ok {
				continue
			}
			order = append(order, to)
			f := s.fail
			for order[i] != 0 {
				if t, ok := states[f].to[uint8(k)]; ok { //nolint:gosec // see above
					states[to].fail = t
					break
				}
				if f == 0 {
					break
				}
				f = states[f].fail
			}
			for id := range states[states[to].fail].met {
				if states[to].met == nil {
					states[to].met = map[uint16]bool{}
				}
				states[to].met[id] = true
			}
		}
	}
	// Those that end a literal are numbered last, so that one comparison tells them.
	number := make([]uint16, len(states))
	n := 0
	for _, ends := range []bool{false, true} {
		if ends {
			a.first = uint16(n) //nolint:gosec // see errStates
		}
		for _, s := range order {
			if (states[s].met != nil) == ends {
				number[s] = uint16(n) //nolint:gosec // see errStates
				n++
			}
		}
	}
	a.next = make([]uint16, len(states)<<a.shift)
	a.met = make([][]uint16, len(states)-int(a.first))
	for _, s := range order {
		row := a.next[int(number[s])<<a.shift:]
		if s != 0 {
			copy(row[:1<<a.shift], a.next[int(number[states[s].fail])<<a.shift:])
		}
		for k, to := range states[s].to {
			row[k] = number[to]
		}
		if m := states[s].met; m != nil {
			for id := range m {
				a.met[number[s]-a.first] = append(a.met[number[s]-a.first], id)
			}
		}
	}
	return a, nil
}

// scan calls met for what text meets; for the same clauses it may do so several times.
func (a *automaton) scan(text string, met func(state uint16, clauses []uint16)) {
	var at uint16
	next, first, shift := a.next, a.first, a.shift
	for i := range len(text) {
		at = next[int(at)<<shift|int(a.kinds[text[i]])]
		if at >= first {
			met(at-first, a.met[at-first])
		}
	}
}

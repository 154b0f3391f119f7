// Command testsum reads what "go test -json" writes and prints it for people: each test's result as it comes, of what failed the lines
// that say what it missed, and at the end the whole output of what failed, the slowest packages, those lines once more, and one line
// with the numbers. A record of a run may keep but a part, the first failures or its end, so both are short: the logs are between them.
//
// It promises that its exit code is 0 only if something ran and nothing failed. A package that does not build, panics
// or runs out of time counts as a failure, and so does a skipped test: here everything that a test may want is there.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	result := flag.String("result", "", "file that gets the last line too")
	notes := flag.String("notes", "", "what to repeat before the last line")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go test -json ./... | testsum [-result FILE] [NAME OF A CHECK THAT FAILED BEFORE]...")
	}
	flag.Parse()
	s := newSummary(os.Stdout)
	for _, check := range flag.Args() {
		s.failed = append(s.failed, "the check "+check)
	}
	err := s.read(os.Stdin)
	if err != nil {
		s.failed = append(s.failed, "reading the results: "+err.Error())
	}
	line := s.end()
	if *notes != "" {
		s.print(" !    " + strings.TrimSpace(*notes) + "\n\n")
	}
	if *result != "" {
		err = os.WriteFile(*result, []byte(line+"\n"), 0o600)
	}
	fmt.Println(line)
	if err != nil || len(s.failed) > 0 {
		os.Exit(1)
	}
}

// event is a line of test2json (go doc test2json), or of a build's part in it.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
	ImportPath, FailedBuild       string
}

// test names a test; one without a name is its package.
type test struct{ pkg, name string }

// String writes it as the path of the test.
func (t test) String() string { return strings.TrimSuffix(t.pkg+" "+t.name, " ") }

type summary struct {
	out     io.Writer
	output  map[test][]string // of what has not ended
	parent  map[test]bool     // has subtests
	broken  map[test]bool     // failed, or something in it did
	open    map[string]bool   // packages that began and did not end
	passed  int
	failed  []string
	whole   []string // the output of tests that failed
	words   []string // what of it says what was missed
	skipped []string
	times   []took
}

type took struct {
	pkg     string
	seconds float64
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[test][]string{}, parent: map[test]bool{}, broken: map[test]bool{}, open: map[string]bool{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				s.take(e)
			} else {
				s.out.Write(line) //nolint:errcheck // the go tool speaks on its own behalf; standard output is all there is
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "start":
		s.open[e.Package] = true
	case "run":
		if up, _, ok := cutLast(e.Test); ok {
			s.parent[test{e.Package, up}] = true
		}
	case "build-output":
		s.print(e.Output)
	case "output":
		if e.Test == "" && strings.HasPrefix(e.Output, "ok ") {
			s.print(e.Output)
		} else {
			s.output[t] = append(s.output[t], e.Output)
		}
	case "pass", "fail", "skip":
		s.finish(t, e)
	}
}

// finish books the end of a test or of a package.
func (s *summary) finish(t test, e event) {
	if t.name == "" {
		s.finishPackage(t, e)
		return
	}
	switch {
	case e.Action == "fail":
		output := strings.Join(s.output[t], "")
		s.whole = append(s.whole, output)
		if !s.broken[t] { // else it failed only because something in it did, which is booked
			s.failed = append(s.failed, t.String())
			s.say("--- FAIL: "+t.name+" ("+t.pkg+")\n", output)
		}
		for up, ok := t, true; ok; up.name, _, ok = cutLast(up.name) {
			s.broken[up] = true
		}
		s.broken[test{pkg: t.pkg}] = true
	case e.Action == "skip":
		s.print(s.output[t]...)
		s.skipped = append(s.skipped, t.String())
	default:
		if !strings.Contains(t.name, "/") {
			s.print(fmt.Sprintf("--- PASS: %s (%.2fs)\n", t.name, e.Elapsed))
		}
		if !s.parent[t] {
			s.passed++
		}
	}
	delete(s.output, t)
}

func (s *summary) finishPackage(t test, e event) {
	delete(s.open, t.pkg)
	if e.Action == "skip" {
		return // has no tests
	}
	s.times = append(s.times, took{t.pkg, e.Elapsed})
	own := strings.TrimSuffix(strings.Join(s.output[t], ""), "PASS\n") // what TestMain prints, a panic
	delete(s.output, t)
	if e.Action != "fail" {
		s.print(own)
		return
	}
	for of, lines := range s.output { // a test that a panic or the end of time cut short
		if of.pkg == t.pkg {
			own = strings.Join(lines, "") + own
			delete(s.output, of)
		}
	}
	s.whole = append(s.whole, own)
	if !s.broken[t] {
		why := " (a panic, TestMain or the time limit)"
		if e.FailedBuild != "" {
			why = " (does not build)"
		}
		s.failed = append(s.failed, t.pkg+why)
		s.say("--- FAIL: "+t.pkg+why+"\n", own)
	}
}

// say prints what a failed test missed, now and once more at the end.
func (s *summary) say(head, output string) {
	words := head + missed(output)
	s.print(words)
	s.words = append(s.words, words)
}

// end prints what there is to say of the whole and returns the line with the numbers.
func (s *summary) end() string {
	for pkg := range s.open {
		s.failed = append(s.failed, pkg+" (its end was never told)")
	}
	for _, t := range s.skipped {
		s.failed = append(s.failed, t+" (was skipped)")
	}
	if s.passed == 0 && len(s.failed) == 0 {
		s.failed = append(s.failed, "no test ran")
	}
	if len(s.whole) > 0 {
		s.print("\nWhat the failed tests printed:\n")
		s.print(s.whole...)
	}
	slices.SortFunc(s.times, func(a, b took) int { return int(1000 * (b.seconds - a.seconds)) })
	s.print("\nThe slowest packages:\n")
	for _, t := range s.times[:min(10, len(s.times))] {
		s.print(fmt.Sprintf("%8.1fs  %s\n", t.seconds, t.pkg))
	}
	if len(s.failed) > 0 {
		s.print("\nFailed:\n")
		for _, f := range s.failed {
			s.print("  " + f + "\n")
		}
		s.print(s.words...)
	}
	s.print("\n")
	return fmt.Sprintf("%d passed, %d failed", s.passed, len(s.failed))
}

func (s *summary) print(lines ...string) {
	for _, l := range lines {
		fmt.Fprint(s.out, l) //nolint:errcheck // standard output is all there is
	}
}

// told matches the first line of what a test, or the runtime, says by its own words.
var told = regexp.MustCompile(`^( *\w+\.go:\d+: |panic: |fatal error: |WARNING: DATA RACE)`)

// differs matches a line of a difference.
var differs = regexp.MustCompile(`^ *[-+] `)

// missed is the part of a test's output in which it says what it missed: the beginning of each of its own words, and the lines around
// that in which a story tells its failure. Where there is none of both it is the end.
func missed(output string) string {
	const most, width, story, after = 30, 300, 16, 12
	own := 8
	if strings.Contains(output, " FAIL: ") {
		own = 1
	}
	all := strings.Split(strings.TrimRight(output, "\n"), "\n")
	show := make([]bool, len(all))
	for i, l := range all {
		switch {
		case told.MatchString(l):
			for n := i; n < min(i+own, len(all)) && (n == i || !told.MatchString(all[n])); n++ {
				show[n] = true
			}
		case strings.HasPrefix(strings.TrimSpace(l), "FAIL: "):
			for n := max(0, i-story); n <= i; n++ {
				show[n] = true
			}
			for n := i + 1; n < min(i+after, len(all)) && differs.MatchString(all[n]); n++ {
				show[n] = true
			}
		}
	}
	if !slices.Contains(show, true) {
		for n := max(0, len(all)-most); n < len(all); n++ {
			show[n] = true
		}
	}
	var b strings.Builder
	lines := 0
	for i, l := range all {
		if show[i] && lines < most {
			b.WriteString(l[:min(width, len(l))] + "\n")
			lines++
		}
	}
	return b.String()
}

// cutLast cuts a subtest's name off its path.
func cutLast(name string) (up, sub string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

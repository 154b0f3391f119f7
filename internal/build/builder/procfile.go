package builder

import (
	"fmt"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// procfileName is the file at the root of a source tree that names its processes.
const procfileName = "Procfile"

// parseProcfile reads a Procfile: "type: command" a line; blank lines and lines that begin with "#" are skipped. file is
// its name as messages show it.
func parseProcfile(file, text string) (map[bulwark.ProcessType]bulwark.Command, error) {
	procs := map[bulwark.ProcessType]bulwark.Command{}
	seen := map[bulwark.ProcessType]int{}
	text = strings.TrimPrefix(text, "\ufeff")
	n := 0
	for line := range strings.Lines(text) {
		n++
		// Blanks and the line's end only: other white space, such as a form feed, is part of a word to a shell.
		line = strings.Trim(strings.TrimRight(line, "\r\n"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, command, ok := strings.Cut(line, ":")
		if !ok {
			return nil, at(file, n, "the line has no \":\"", "A line of a Procfile is a process type, a colon and a command, for example \"web: ./server\".")
		}
		typ, err := bulwark.ParseProcessType(strings.Trim(name, " \t"))
		if err != nil {
			return nil, at(file, n, fmt.Sprintf("%+q is not the name of a process type", short(name)), "Use 1 to 30 of the characters a–z, 0–9 and \"-\", beginning with a letter, for example \"web\".")
		}
		if first, dup := seen[typ]; dup {
			return nil, at(file, n, fmt.Sprintf("the process type %q is there already, in line %d", typ, first), "Remove one of the two lines.")
		}
		cmd, err := parseCommand(command)
		if err != nil {
			return nil, at(file, n, fmt.Sprintf("the process type %q: %v", typ, err), "")
		}
		procs[typ], seen[typ] = cmd, n
	}
	if len(procs) == 0 {
		return nil, bulwark.Invalid(fmt.Sprintf("%s names no process.", file), "Write a line such as \"web: ./server\", or remove the file.")
	}
	return procs, nil
}

// at is the error for a mistake in one line of one of the app's files. what is a sentence without capital and full stop.
func at(file string, line int, what, hint string) error {
	place := file
	if line > 0 {
		place = fmt.Sprintf("%s:%d", file, line)
	}
	return bulwark.Invalid(fmt.Sprintf("%s: %s.", place, what), hint)
}

// short cuts text that a message quotes.
func short(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

package gitssh

import (
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// A verb is what a client may ask for.
type verb string

// The two verbs of git that are served; git-upload-archive and all else are not.
const (
	verbReceive verb = "receive-pack" // git push
	verbUpload  verb = "upload-pack"  // git clone, git fetch
)

type command struct {
	verb verb
	app  bulwark.AppName
}

// maxCommand is longer than every command that can be right.
const maxCommand = 256

// parseCommand reads the command line of an exec request. Git sends "git-receive-pack '/NAME.git'": the program, one
// space, and the path quoted for a shell. There is no shell here and never one behind this, so nothing is unquoted: an
// app's name needs no escape, and a path with one is refused like every other path that is not an app.
func parseCommand(line string) (command, error) {
	if len(line) > maxCommand {
		return command{}, badCommand()
	}
	name, path, ok := cutVerb(line)
	if !ok {
		return command{}, badCommand()
	}
	if len(path) < 2 || path[0] != '\'' || path[len(path)-1] != '\'' {
		return command{}, badCommand()
	}
	path = path[1 : len(path)-1]
	path = strings.TrimPrefix(path, "/")
	path = strings.TrimSuffix(path, ".git")
	app, err := bulwark.ParseAppName(path)
	if err != nil {
		return command{}, err
	}
	return command{verb: name, app: app}, nil
}

func cutVerb(line string) (v verb, rest string, ok bool) {
	for _, v := range []verb{verbReceive, verbUpload} {
		for _, prefix := range []string{"git-", "git "} {
			if rest, ok := strings.CutPrefix(line, prefix+string(v)+" "); ok {
				return v, rest, true
			}
		}
	}
	return "", "", false
}

func badCommand() error {
	return bulwark.Invalid("Bulwark gives no shell and copies no files.", "Push with git: git push bulwark main")
}

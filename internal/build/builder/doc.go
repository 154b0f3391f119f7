// Package builder is the program inside a builder: it turns one source tree into one OCI image and a plan of how to run
// it. A builder is a throw-away container for one build of one app (package buildspec); the node, which made it, calls
// its output hostile and measures for itself.
//
// # What it promises
//
//   - A build that succeeds prints a Result whose image lies in BuildSetup.Output, by digest; one that fails prints an Error
//     that says what is wrong, where (file and line), and what to do next. Exit codes: 0, 1 for the app's failure, 2 for
//     ours.
//   - Build secrets reach only steps that ask for them, and neither the image nor the log.
//   - The log is bounded (4 KiB a line, 10 MB in all) and holds no control characters but the tab.
//   - bulwark.toml and Procfile are read strictly: what is not understood is an error with its line, never ignored.
//   - It starts BuildKit itself and stops it; on SIGTERM the running steps are cancelled first.
//
// # What an attacker who owns it could do
//
// Spoil the image, the plan and the log of this one app, and its cache in BuildSetup.State, which no other app and no
// other trust class of the same app ever sees; learn the build secrets that the app's owners gave to this build; talk to
// what the proxy allows. It holds no key and no address of the platform, and its network has no other way out.
//
// # How a language is chosen
//
// bulwark.toml's [build] planner decides if it is set. Otherwise the first of these that fits: a Dockerfile; Go (go.mod);
// Node.js (package.json); Python (requirements.txt, pyproject.toml, Pipfile, setup.py or manage.py); a static site
// (index.html or public/index.html). A Dockerfile comes first because its author wrote down how the app is built. The
// log names the file that decided.
//
// # Commands
//
// The right side of a Procfile line, and every command in bulwark.toml, becomes a bulwark.Command. There is no shell
// between the platform and the app unless the author wrote one:
//
//   - A simple command (words, 'single' and "double" quotes, backslashes, $NAME and ${NAME}) becomes an argv, and its
//     variables are filled in at start. A variable is always part of one word: its value is not split at blanks and no
//     file names are matched in it, which differs from a shell.
//   - Whatever else a shell would understand (&& || | ; & < > ( ) { } * ? [ ] ~ # ! backquotes, $( ), ${NAME:-x}, $1,
//     NAME=value in front, a shell's own commands such as cd or export) makes the whole line the argument of
//     "/bin/sh -c".
//   - A literal "$" beside a variable cannot be told apart when variables are filled in, so such a line goes to the
//     shell, too.
package builder

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
)

// The exit codes.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitCanceled = 130 // as a shell tells of SIGINT
)

// newRoot makes the command that all others hang below.
func newRoot(e *env, commands ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "bulwark",
		Short: "Push code with git; run it hardened, signed for, and over HTTPS",
		Long: `Bulwark builds what you push with git in a throw-away builder, keeps the result as a signed image, runs it in
hardened instances and serves it over HTTPS. What changes an app is signed on this machine with your own key.`,
		Example: `  $ bulwark login https://localhost:8443
  $ bulwark apps create shop
  $ git push bulwark main`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.AddCommand(commands...)
	return root
}

// execute runs the command that args name and returns the exit code, after an error was shown.
func execute(ctx context.Context, e *env, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ended, ok := errors.AsType[*exitError](err); ok {
		return ended.code
	}
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitCanceled // the command has said what there is to say
	}
	showError(e, err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if bulwark.KindOf(err) == bulwark.KindCanceled && ctx.Err() != nil {
		return exitCanceled
	}
	return exitFailure
}

// usageError is a mistake in how a command was called; it gives exit code 2.
type usageError struct{ err error }

// Error returns the text of what it wraps.
func (u *usageError) Error() string { return u.err.Error() }

// Unwrap returns what it wraps.
func (u *usageError) Unwrap() error { return u.err }

// usage marks an error as a mistake in the command line; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// misuse is usage of a fresh error.
func misuse(message, hint string) error { return usage(bulwark.Invalid(message, hint)) }

// flagError says in our own form what pflag says in its own.
func flagError(cmd *cobra.Command, err error) error {
	text := clean(err.Error())
	return usage(bulwark.Fail(bulwark.KindInvalid, upper(text)+".", "See "+cmd.CommandPath()+" --help.", err))
}

// knownCommand refuses arguments where a command's name was expected.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	hint := "See " + cmd.CommandPath() + " --help for all of them."
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "Did you mean " + cmd.CommandPath() + " " + strings.Join(near, ", or ") + "?"
	}
	return misuse(fmt.Sprintf("There is no command %s %s.", cmd.CommandPath(), quote(args[0])), hint)
}

// showError prints a failure in two parts: what is wrong, and what to do next.
func showError(e *env, err error) {
	shown, ok := errors.AsType[*bulwark.Error](err)
	if !ok {
		shown = &bulwark.Error{Message: upper(strings.TrimSuffix(err.Error(), ".")) + "."}
	}
	fmt.Fprintf(e.stderr, " !    %s\n", indent(shown.Message))
	if shown.Hint != "" {
		fmt.Fprintf(e.stderr, "      %s\n", indent(shown.Hint))
	}
	if shown.Cause != nil && e.getenv("BULWARK_DEBUG") != "" {
		fmt.Fprintf(e.stderr, "      (%s)\n", indent(shown.Cause.Error()))
	}
}

// note tells a person something beside the result.
func (e *env) note(format string, args ...any) {
	fmt.Fprintf(e.stderr, " !    %s\n", indent(fmt.Sprintf(format, args...)))
}

// indent makes a text of several lines stand below its first, harmless to a terminal.
func indent(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return strings.Join(lines, "\n      ")
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

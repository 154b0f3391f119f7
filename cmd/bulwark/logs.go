package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// maxTail is how many old lines can be asked for.
const maxTail = 10_000

func (c *cli) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := c.forApp(command("logs", "Show what an app's instances print", "  $ bulwark logs -a shop\n  $ bulwark logs -f -n 20", exactly(0, ""),
		func(ctx context.Context, _ []string) error { return c.logs(ctx, tail, follow) }))
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until Ctrl-C")
	cmd.Flags().IntVarP(&tail, "lines", "n", 100, "how many old lines to show")
	return cmd
}

func (c *cli) logs(ctx context.Context, tail int, follow bool) error {
	if tail < 1 || tail > maxTail {
		return misuse(fmt.Sprintf("-n %d is not a number of lines.", tail), fmt.Sprintf("Give one from 1 to %d.", maxTail))
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	width := 0
	err = s.Logs(ctx, name, tail, follow, func(l client.LogLine) error {
		if c.json {
			return c.event(l)
		}
		from := clean(l.Instance)
		width = max(width, utf8.RuneCountInString(from), 8)
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(from))
		_, err := fmt.Fprintln(c.stdout, c.paint(instanceStyle(from), from+pad+" |")+" "+clean(l.Text))
		return err
	})
	if _, known := errors.AsType[*bulwark.Error](err); known || ctx.Err() != nil || err == nil && !follow {
		return err
	}
	return bulwark.Fail(bulwark.KindUnavailable, "The server closed the log.", "Run the command again.", err)
}

// instanceStyle gives each instance a colour of its own, the same every time.
func instanceStyle(name string) string {
	colours := []string{cyan, yellow, green, magenta, blue, "96", "93", "92", "95", "94"}
	h := fnv.New32a()
	h.Write([]byte(name))
	return colours[h.Sum32()%uint32(len(colours))]
}

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// maxTail is how many old lines can be asked for.
const maxTail = 10_000

func (c *cli) logsCommand() *cobra.Command {
	var follow, edge bool
	var tail int
	cmd := c.forApp(command("logs", "Show what an app's instances print, or what the edge saw", "  $ bulwark logs -a shop\n  $ bulwark logs -f -n 20\n  $ bulwark logs --edge -f", exactly(0, ""),
		func(ctx context.Context, _ []string) error {
			if edge {
				return c.requests(ctx, tail, follow)
			}
			return c.logs(ctx, tail, follow)
		}))
	cmd.Flags().BoolVar(&edge, "edge", false, "show requests as the edge saw them, in place of what instances print")
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

// requests shows what the edge saw of requests.
func (c *cli) requests(ctx context.Context, tail int, follow bool) error {
	if tail < 1 || tail > maxTail {
		return misuse(fmt.Sprintf("-n %d is not a number of requests.", tail), fmt.Sprintf("Give one from 1 to %d.", maxTail))
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	err = s.Requests(ctx, name, tail, follow, func(e bulwark.AccessEvent) error {
		if c.json {
			return c.event(e)
		}
		_, err := fmt.Fprintln(c.stdout, c.paint(statusStyle(e.Status), strconv.Itoa(e.Status))+" "+requestWords(e))
		return err
	})
	if _, known := errors.AsType[*bulwark.Error](err); known || ctx.Err() != nil || err == nil && !follow {
		return err
	}
	return bulwark.Fail(bulwark.KindUnavailable, "The server closed the log.", "Run the command again.", err)
}

func statusStyle(status int) string {
	switch {
	case status >= 500:
		return red
	case status >= 400:
		return yellow
	}
	return green
}

// requestWords is a request in one line.
func requestWords(e bulwark.AccessEvent) string {
	line := fmt.Sprintf("%s %s %s%s client=%s total=%.0fms queue=%.0fms in=%d out=%d id=%s", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), clean(e.Method), clean(e.Host), clean(e.Path), clean(e.Client), e.Total, e.Queue, e.In, e.Out, clean(e.ID))
	if e.Fault != "" {
		line += " fault=" + strconv.Quote(clean(e.Fault))
	}
	return line
}

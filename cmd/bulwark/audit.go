package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
)

// auditFlags are those of audit and of what is below it.
type auditFlags struct {
	since       string
	most        int
	onlyNew     bool
	offline     string
	checkpoints []string
	witnesses   []string
	within      time.Duration
}

func (c *cli) auditCommand() *cobra.Command {
	var f auditFlags
	verify := command("verify", "Check that the log was not changed and leaves nothing out",
		"  $ bulwark audit verify\n  $ bulwark audit verify --new\n  $ bulwark audit verify --offline DIR --checkpoint FILE", exactly(0, ""),
		func(ctx context.Context, _ []string) error { return c.verifyAudit(ctx, f) })
	verify.Long = `Fetches the log and checks it on this machine, with the node's key that came with your login token: that the node
signed where it stands, that each entry is one that was signed for, that nothing which this machine or a checkpoint that you
kept has seen is gone or another, and that each document that the node accepted has its entry. The server is not believed.

The exit code is 1 if anything does not hold. --new reads only what came since the last time that everything held.
--offline checks an export ("bulwark audit export") and needs no server; what this machine remembers counts there too.`
	verify.Flags().BoolVar(&f.onlyNew, "new", false, "read only what came since it was checked last")
	verify.Flags().StringVar(&f.offline, "offline", "", "check the export in this folder")
	verify.Flags().StringArrayVar(&f.checkpoints, "checkpoint", nil, "hold the log to a checkpoint that was kept elsewhere")
	verify.Flags().StringArrayVar(&f.witnesses, "witness", nil, "hold the log to what the witness with this key saw; see bulwark audit witness")
	verify.Flags().DurationVar(&f.within, "within", 48*time.Hour, "how old a witness's word may be")
	checkpoint := command("checkpoint", "Print where the log stands, signed by the node, to keep it elsewhere",
		"  $ bulwark audit checkpoint > paper.txt", exactly(0, ""), func(ctx context.Context, _ []string) error { return c.printCheckpoint(ctx) })
	export := command("export DIR", "Write the log, and all that it takes to check it, into a folder", "  $ bulwark audit export audit-2026-03",
		exactly(1, "the folder that is to be made"), func(ctx context.Context, args []string) error { return c.exportAudit(ctx, args[0]) })
	export.Long = `Writes the log as tiles (C2SP tlog-tiles), the signed checkpoint, the keys and the node's chain. Tools that are not ours
check it too: golang.org/x/mod's note and tlog, and Tessera's fsck. docs/audit.md says how.`
	cmd := group("audit [APP]", "Show who did what, from where, and what came of it", "  $ bulwark audit shop --since 1d\n  $ bulwark audit verify", nil, verify, checkpoint, export, c.witnessCommand())
	cmd.Args = between(0, 1, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.listAudit(cmd.Context(), args, f) }
	cmd.Long = `Lists entries of the audit log, the newest first: of an app, or of all there is. The list is the server's word; "bulwark audit
verify" checks the log itself. People are shown by their ids: their names are the node's alone.`
	cmd.Flags().StringVar(&f.since, "since", "7d", "how far back: 30m, 12h, 7d")
	cmd.Flags().IntVar(&f.most, "most", 200, "how many entries at most")
	cmd.ValidArgsFunction = c.completeApp
	return cmd
}

func (c *cli) listAudit(ctx context.Context, args []string, f auditFlags) error {
	back, err := timeSpan(f.since)
	if err != nil {
		return usage(err)
	}
	if f.most < 1 || f.most > 10_000 {
		return misuse("--most is from 1 to 10000.", "")
	}
	var app bulwark.AppName
	if len(args) == 1 {
		if app, err = bulwark.ParseAppName(args[0]); err != nil {
			return usage(err)
		}
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	c.watchLog(ctx, s)
	all, err := s.Audit(ctx, app, c.now().Add(-back), f.most)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		if len(all) == 0 {
			c.empty("Nothing was done.")
			return
		}
		var rows [][]string
		for _, e := range all {
			rows = append(rows, []string{e.Time.UTC().Format(time.DateTime), c.who(s, e), e.Action, e.Resource, e.Outcome, e.From, e.Detail})
		}
		c.table(rows)
		if len(all) == f.most {
			c.note("There may be more: --most shows more of them.")
		}
	})
}

// who is whom an entry names.
func (c *cli) who(s *session, e client.AuditEntry) string {
	switch {
	case e.Actor != "" && e.Actor == s.server.Person:
		return "you"
	case e.Actor != "":
		return string(e.Actor)
	case e.From != "":
		return "a stranger"
	}
	return "the platform"
}

// timeSpan reads a span of time with days, which Go's own reader does not know.
func timeSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, bulwark.Fail(bulwark.KindInvalid, quote(s)+" is no span of time.", "Write it as 30m, 12h or 7d.", err)
	}
	return d, nil
}

// remoteLog is a server's log as a source.
type remoteLog struct {
	*client.Client
	behind, refused string // what the server said along with the checkpoint
}

// Checkpoint implements [inspect.Source].
func (r *remoteLog) Checkpoint(ctx context.Context) ([]byte, error) {
	out, err := r.AuditCheckpoint(ctx, true)
	r.behind, r.refused = out.Behind, out.Refused
	return out.Note, err
}

// Tile implements [inspect.Source].
func (r *remoteLog) Tile(ctx context.Context, level, index uint64, width uint8) ([]byte, error) {
	return r.AuditTile(ctx, level, index, width)
}

// Entries implements [inspect.Source].
func (r *remoteLog) Entries(ctx context.Context, index uint64, width uint8) ([]byte, error) {
	return r.AuditEntries(ctx, index, width)
}

// Chain implements [inspect.Source].
func (r *remoteLog) Chain(ctx context.Context, after uint64) ([][]byte, []byte, error) {
	out, err := r.AuditChain(ctx, after)
	return out.Links, out.Head, err
}

// auditOf opens what it takes to check a log: the memory, the keys, and where the log is read from.
func (c *cli) auditOf(ctx context.Context, offline string) (*session, *logMemory, inspect.Keys, inspect.Source, error) {
	st, err := openStore(c.env)
	if err != nil {
		return nil, nil, inspect.Keys{}, nil, err
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return nil, nil, inspect.Keys{}, nil, err
	}
	m, err := st.memory(s.server.Node)
	if err != nil {
		return nil, nil, inspect.Keys{}, nil, err
	}
	if offline == "" {
		keys, err := m.keys(ctx, s)
		return s, m, keys, &remoteLog{Client: s.Client}, err
	}
	dir := inspect.Dir(c.absolute(offline))
	info, err := dir.Info()
	if err != nil {
		return nil, nil, inspect.Keys{}, nil, usage(err)
	}
	keys, err := inspect.KeysOf(info, s.server.key())
	if m.Key == "" {
		m.Key = keys.Log
	}
	return s, m, keys, dir, err
}

// auditVerified is the outcome of audit verify.
type auditVerified struct {
	Server string `json:"server"`
	Holds  bool   `json:"holds"`
	*inspect.Report
	Behind string `json:"behind,omitempty"`
}

func (c *cli) verifyAudit(ctx context.Context, f auditFlags) error {
	s, m, keys, src, err := c.auditOf(ctx, f.offline)
	if err != nil {
		return err
	}
	var o inspect.Options
	if f.offline == "" {
		o.Now = c.now()
	}
	seen, err := m.seen(keys)
	if err != nil {
		return err
	}
	if seen != nil {
		o.Seen = append(o.Seen, seen)
	}
	for _, path := range f.checkpoints {
		b, err := os.ReadFile(c.absolute(path))
		if err != nil {
			return usage(bulwark.Fail(bulwark.KindInvalid, "The file "+quote(path)+" cannot be read.", "", err))
		}
		kept, err := inspect.OpenCheckpoint(b, keys)
		if err != nil {
			return usage(bulwark.Fail(bulwark.KindInvalid, quote(path)+" is no checkpoint of this installation's audit log.", "", err))
		}
		o.Seen = append(o.Seen, kept)
	}
	var wrong []string
	if len(f.witnesses) > 0 {
		if f.offline != "" {
			return misuse("--witness asks the server, and --offline does not.", "Give what the witness signed by --checkpoint.")
		}
		all, err := s.Witnessed(ctx)
		if err != nil {
			return err
		}
		var by []*inspect.Checkpoint
		by, wrong = heldTo(f.witnesses, all, keys, c.now(), f.within)
		o.Seen = append(o.Seen, by...)
	}
	if o.State = m.Checked; !f.onlyNew {
		// All of it is read again, and still has to have in it what the node's chain had.
		o.State = inspect.State{Chain: m.Checked.Chain}
	}
	var report *inspect.Report
	err = c.during("Checking the audit log", func() (err error) {
		report, err = inspect.Inspect(ctx, src, keys, o)
		return err
	})
	if err != nil {
		return err
	}
	report.Findings = append(report.Findings, wrong...)
	out := auditVerified{Server: s.server.URL, Report: report}
	if r, ok := src.(*remoteLog); ok {
		out.Behind = r.behind
		if r.refused != "" {
			report.Findings = append(report.Findings, "The node does not sign the log any more: "+r.refused)
		}
	}
	out.Holds = report.Holds()
	if err := c.result(out, func() { c.showAudit(out) }); err != nil {
		return err
	}
	if !out.Holds {
		return bulwark.Fail(bulwark.KindFailed, "The audit log of "+s.server.URL+" does not hold.",
			"Somebody changed it, or put back an older state of the machine. Show the operator the output of bulwark audit verify --json, and keep ~/.config/bulwark as it is.", nil)
	}
	if seen == nil || report.Size >= seen.Size {
		m.Checkpoint = string(report.Checkpoint.Note)
	}
	m.Checked = report.State
	return m.save(keys)
}

func (c *cli) showAudit(v auditVerified) {
	c.head("Audit log of %s", v.Server)
	until, waiting, late := "", "", ""
	if !v.Until.IsZero() {
		until = v.Until.UTC().Format(time.RFC3339)
	}
	if v.Waiting > 0 {
		waiting = fmt.Sprintf("%d documents that the node accepted a moment ago are not in it yet", v.Waiting)
	}
	if v.Late > 0 {
		late = fmt.Sprintf("%d entries were written late, after the server had been killed", v.Late)
	}
	c.fields("Entries", fmt.Sprintf("%d, of which %d were read now", v.Size, v.Checked), "Accepted", fmt.Sprintf("%d documents by the node", v.Accepted),
		"Last entry", until, "Waiting", waiting, "Late", late, "Behind", v.Behind)
	mark := "BROKEN"
	if c.utf8 {
		mark = "✗"
	}
	for _, f := range v.Findings {
		fmt.Fprintf(c.stdout, "%s  %s\n", c.paint(red, mark), clean(f))
	}
	if v.Holds {
		c.say("All of it holds.")
	}
}

func (c *cli) printCheckpoint(ctx context.Context) error {
	_, m, keys, src, err := c.auditOf(ctx, "")
	if err != nil {
		return err
	}
	b, err := src.Checkpoint(ctx)
	if err != nil {
		return err
	}
	now, err := inspect.OpenCheckpoint(b, keys)
	if err != nil {
		return err
	}
	if seen, err := m.seen(keys); err != nil || seen != nil && seen.Size > now.Size {
		return bulwark.Fail(bulwark.KindFailed, "The audit log is shorter than this machine has seen it.", "See bulwark audit verify.", err)
	}
	if c.json {
		return c.result(map[string]any{"size": now.Size, "root": now.Root, "note": string(b)}, nil)
	}
	_, err = c.stdout.Write(b)
	return err
}

func (c *cli) exportAudit(ctx context.Context, dir string) error {
	s, _, keys, src, err := c.auditOf(ctx, "")
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, "")
	if err != nil {
		return err
	}
	var now *inspect.Checkpoint
	err = c.during("Writing the audit log", func() (err error) {
		now, err = inspect.Export(ctx, src, keys, info.Envelope, c.absolute(dir))
		return err
	})
	if err != nil {
		return err
	}
	return c.result(map[string]any{"folder": dir, "entries": now.Size}, func() {
		c.say("%d entries are in %s. Check them with bulwark audit verify --offline %s.", now.Size, dir, dir)
	})
}

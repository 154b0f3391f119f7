package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/audit/witness"
)

// witnessFile is where a witness's key is, below the store's folder: the secret half and the public one, a line each.
const witnessFile = "witness.key"

func (c *cli) witnessCommand() *cobra.Command {
	var name string
	var every time.Duration
	var list bool
	cmd := command("witness", "Vouch for where the audit log stands, with a key of this machine's",
		"  $ bulwark audit witness --name witness.example.org\n  $ bulwark audit witness --every 10m\n  $ bulwark audit verify --witness witness.example.org+1f2e3d4c+BPk…", exactly(0, ""),
		func(ctx context.Context, _ []string) error {
			if list {
				return c.listWitnesses(ctx)
			}
			return c.witness(ctx, name, every)
		})
	cmd.Long = `Looks that the log only grew since this machine saw it last, and adds a signature of its own, with the time, to the node's (C2SP
tlog-cosignature). The server keeps it for others, who check it with "bulwark audit verify --witness KEY": so a machine that was put back as
a whole is noticed also by who never saw the log before. Run it on a machine of somebody else's, and give its key, which is printed, to those
who are to believe it. The key is made at the first time.`
	cmd.Flags().StringVar(&name, "name", "", "name of the witness, for the first time")
	cmd.Flags().DurationVar(&every, "every", 0, "go on, and look again after this time")
	cmd.Flags().BoolVar(&list, "list", false, "show who has vouched, and for what")
	return cmd
}

// witnessKey reads this machine's key as a witness, or makes it.
func (c *cli) witnessKey(name string) (witness.Key, error) {
	st, err := openStore(c.env)
	if err != nil {
		return witness.Key{}, err
	}
	path := filepath.Join(st.dir, witnessFile)
	var key witness.Key
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if name == "" {
			return key, misuse("This machine has no key as a witness yet, and it needs a name.", "Give it one: bulwark audit witness --name witness.example.org")
		}
		if key, err = witness.Generate(name); err != nil {
			return key, usage(err)
		}
		return key, atomicfile.Write(path, []byte(key.Secret+"\n"+key.Public+"\n"), 0o600)
	case err == nil:
		key.Secret, key.Public, _ = strings.Cut(strings.TrimSuffix(string(b), "\n"), "\n")
	default:
		return key, bulwark.Fail(bulwark.KindInvalid, "The file "+path+" with this machine's key as a witness cannot be read.", "", err)
	}
	has, err := witness.Name(key.Public)
	if err != nil {
		return key, err
	}
	if name != "" && name != has {
		return key, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("This machine is the witness %s already.", quote(has)), "Leave --name away.", nil)
	}
	return key, nil
}

func (c *cli) witness(ctx context.Context, name string, every time.Duration) error {
	key, err := c.witnessKey(name)
	if err != nil {
		return err
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	for {
		err := c.vouch(ctx, s, key)
		if every <= 0 || err != nil && bulwark.KindOf(err) != bulwark.KindUnavailable {
			return err
		}
		if err != nil {
			c.note("%v", err)
		}
		if err := rest(ctx, every); err != nil {
			return err
		}
	}
}

// vouch looks at the log once, and signs for it.
func (c *cli) vouch(ctx context.Context, s *session, key witness.Key) error {
	var size uint64
	err := c.during("Looking at the audit log", func() error {
		m, keys, err := c.rememberedLog(ctx, s)
		if err != nil {
			return err
		}
		if err := c.grown(ctx, s, m, keys); err != nil {
			return err
		}
		now, err := m.seen(keys)
		if err != nil {
			return err
		}
		if now == nil {
			return bulwark.Fail(bulwark.KindUnavailable, "The server does not show where the audit log stands.", "Try again in a moment.", nil)
		}
		signed, err := witness.Sign(now.Note, keys.Log, key)
		if err != nil {
			return err
		}
		size = now.Size
		return s.Witness(ctx, client.Witnessed{Witness: key.Public, Note: signed})
	})
	if err != nil {
		return err
	}
	return c.result(map[string]any{"witness": key.Public, "size": size}, func() {
		c.say("Vouched for %d entries of the audit log of %s. Who believes this machine gives its key:", size, s.server.URL)
		c.say("  bulwark audit verify --witness %s", key.Public)
	})
}

// shownWitness is one in audit witness --list.
type shownWitness struct {
	Witness string    `json:"witness"`
	Size    uint64    `json:"size"`
	At      time.Time `json:"at"`
}

func (c *cli) listWitnesses(ctx context.Context) error {
	s, m, keys, _, err := c.auditOf(ctx, "")
	if err != nil {
		return err
	}
	all, err := s.Witnessed(ctx)
	if err != nil {
		return err
	}
	var out []shownWitness
	for _, w := range all {
		seen, err := witness.Open(w.Note, m.Key, w.Witness)
		if err != nil {
			return err
		}
		if _, err := inspect.OpenCheckpoint(w.Note, keys); err != nil {
			return err
		}
		out = append(out, shownWitness{w.Witness, seen.Size, seen.At.UTC()})
	}
	return c.result(list(out), func() {
		if len(out) == 0 {
			c.empty("Nobody has vouched for the audit log yet.")
			return
		}
		var rows [][]string
		for _, w := range out {
			rows = append(rows, []string{w.Witness, fmt.Sprintf("%d entries", w.Size), w.At.Format(time.DateTime)})
		}
		c.table(rows)
	})
}

// heldTo returns what the witnesses that are believed saw of the log, and what is wrong with that.
func heldTo(believed []string, all []client.Witnessed, keys inspect.Keys, now time.Time, within time.Duration) (seen []*inspect.Checkpoint, wrong []string) {
	for _, key := range believed {
		name, err := witness.Name(key)
		if err != nil {
			wrong = append(wrong, message(err))
			continue
		}
		found := false
		for _, w := range all {
			if w.Witness != key {
				continue
			}
			at, err := witness.Open(w.Note, keys.Log, key)
			if err != nil {
				wrong = append(wrong, message(err))
				continue
			}
			checkpoint, err := inspect.OpenCheckpoint(w.Note, keys)
			if err != nil {
				wrong = append(wrong, message(err))
				continue
			}
			found, seen = true, append(seen, checkpoint)
			if age := now.Sub(at.At); age > within || age < -within {
				wrong = append(wrong, fmt.Sprintf("The witness %s vouched last at %s, which is not within %s.", name, at.At.UTC().Format(time.RFC3339), within))
			}
		}
		if !found {
			wrong = append(wrong, fmt.Sprintf("The server shows no checkpoint that the witness %s vouched for.", name))
		}
	}
	return seen, wrong
}

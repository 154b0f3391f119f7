package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/base"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// unitDir is where an administrator's own systemd units are.
const unitDir = "/etc/systemd/system"

func installCommand(e *env) *cobra.Command {
	var opt upOptions
	var units string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make an installation and its systemd unit, as root",
		Long: `Makes the installation, or brings the one that is there into line, and writes the systemd unit that runs "bulwark up"
for it. It starts nothing; it prints the commands that do.`,
		Example: "  # bulwark install\n  # bulwark bases add bulwark-bases_*_linux_amd64.tar\n  # systemctl enable --now bulwark-main",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o, err := opt.parse()
			if err != nil {
				return err
			}
			inst, err := install.Create(o)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			text, err := inst.Unit(self)
			if err != nil {
				return err
			}
			path := filepath.Join(units, inst.UnitName())
			if err := atomicfile.Write(path, []byte(text), 0o644); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "Wrote %s.\n", path)
			if _, err := base.Find(inst.Bases); err != nil {
				fmt.Fprintf(e.stdout, "Nothing can be built yet, there are no base images. Add those of the release with:\n  bulwark bases add FILE%s\n", atRoot(inst))
			}
			fmt.Fprintf(e.stdout, "Start it with:\n  systemctl daemon-reload\n  systemctl enable --now %s\n", inst.UnitName())
			return nil
		},
	}
	opt.flags(cmd)
	cmd.Flags().StringVar(&units, "units", unitDir, "directory for the unit")
	return cmd
}

// atRoot is the flag that names an installation in a command, for the one that is not at the usual place.
func atRoot(inst *install.Installation) string {
	if inst.Root == install.DefaultRoot {
		return ""
	}
	return " --root " + inst.Root
}

// removeUnit removes the unit that installCommand wrote, and no other of the same name.
func removeUnit(inst *install.Installation) error {
	path := filepath.Join(unitDir, inst.UnitName())
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !strings.Contains(string(text), " --root "+inst.Root+"\n") {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// tellSystemd says that the sockets are open, if systemd started this process.
func tellSystemd(e *env) error {
	n, err := fdpass.NewNotifier(e.getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	return errors.Join(n.Notify("READY=1"), n.Close())
}

// supervisorCommand is for scripts that install and upgrade.
func supervisorCommand(e *env) *cobra.Command {
	var root string
	cmd := &cobra.Command{Use: "supervisor", Short: "Speak with the running supervisor, as root", Hidden: true, Args: knownCommand,
		Example: "  # bulwark supervisor ready", RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.PersistentFlags().StringVar(&root, "root", install.DefaultRoot, "folder of the installation")
	client := func() (*supervise.Client, error) {
		inst, err := install.Open(root)
		if err != nil {
			return nil, err
		}
		return supervise.NewClient(inst), nil
	}
	var wait time.Duration
	ready := &cobra.Command{Use: "ready", Short: "Wait until all processes run, and list them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return awaitReady(ctx, e, client)
		}}
	ready.Flags().DurationVar(&wait, "wait", 0, "how long to wait; 0 looks once")
	leave := &cobra.Command{Use: "leave", Short: "End the supervisor alone; the next one adopts the processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client()
			if err != nil {
				return err
			}
			return c.Leave(cmd.Context())
		}}
	var adopted bool
	restart := &cobra.Command{Use: "restart [PROCESS...]", Short: "Replace processes, one after the other", ValidArgs: install.Processes(),
		Args: cobra.OnlyValidArgs, RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client()
			if err != nil {
				return err
			}
			if adopted {
				all, err := c.Status(cmd.Context())
				if err != nil {
					return err
				}
				for _, s := range all {
					if s.Adopted {
						args = append(args, s.Name)
					}
				}
			}
			for _, name := range args {
				if err := c.Restart(cmd.Context(), name); err != nil {
					return err
				}
			}
			return nil
		}}
	restart.Flags().BoolVar(&adopted, "adopted", false, "also those that an earlier supervisor started: after an upgrade, the ones of the older version")
	cmd.AddCommand(ready, leave, restart)
	return cmd
}

// awaitReady looks until every process runs or ctx ends, then says what each does.
func awaitReady(ctx context.Context, e *env, client func() (*supervise.Client, error)) error {
	look := func() ([]supervise.Status, error) {
		c, err := client()
		if err != nil {
			return nil, err
		}
		// Not ctx: it may have no time left, and the last look shall say what is missing.
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return c.Status(ask)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := look()
		down := slices.DeleteFunc(slices.Clone(all), func(s supervise.Status) bool { return s.State == "running" })
		if err == nil && len(down) == 0 {
			for _, s := range all {
				fmt.Fprintf(e.stdout, "%s running %s\n", s.Name, strings.Join(s.Listens, " "))
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err != nil {
				return err
			}
			var names []string
			for _, s := range down {
				names = append(names, s.Name+" ("+cmp.Or(s.LastExit, s.State)+")")
			}
			return bulwark.Fail(bulwark.KindUnavailable, "Not every process of the platform runs: "+strings.Join(names, ", ")+".",
				"See their logs in the folder logs of the installation.", ctx.Err())
		}
	}
}

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/base"
	"github.com/bulwark-paas/bulwark/internal/install"
)

func basesCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "bases", Short: "The base images that apps are built and run on, as root", Example: "  # bulwark bases list",
		Args: knownCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(basesAddCommand(e), basesListCommand(e), basesMakeCommand(e))
	return cmd
}

func basesAddCommand(e *env) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Bring the base images of a release to an installation, as root",
		Long: `Unpacks the file of base images that is beside the package in a release, checks every part of it, and has the
installation use them from the node's next start on. It cannot tell who made the file: compare it with the release's
SHA256SUMS first, because whoever made it decides what is in every app.`,
		Example: "  # sha256sum --check --ignore-missing SHA256SUMS\n  # bulwark bases add bulwark-bases_0123456789abcdef_linux_amd64.tar",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			inst, err := install.Open(root)
			if err != nil {
				return err
			}
			if err := inst.Check(); err != nil { // makes the folder, and refuses one that is a stranger's
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return bulwark.Fail(bulwark.KindNotFound, args[0]+" cannot be read.", "Name the file of base images that belongs to the release.", err)
			}
			defer f.Close()
			dir, err := base.Add(cmd.Context(), inst.BasesDir(), f)
			if err != nil {
				return err
			}
			before := inst.Bases
			if inst, err = install.Create(install.Options{Root: inst.Root, Bases: dir}); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "The installation %s uses the base images %s.\n", inst.Name, filepath.Base(dir))
			if _, err := os.Stat(inst.Socket(install.NodeVerbs)); err == nil && before != dir {
				fmt.Fprintf(e.stdout, "What runs goes on with those that it has. Apps live on while the node is replaced:\n  bulwark supervisor restart node%s\n", atRoot(inst))
			}
			return nil
		},
	}
	rootFlag(cmd, &root)
	return cmd
}

func basesListCommand(e *env) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use: "list", Short: "List the base images of an installation, as root", Example: "  # bulwark bases list", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			inst, err := install.Open(root)
			if err != nil {
				return err
			}
			sets := base.List(inst.BasesDir())
			if index, err := base.Find(inst.Bases); err == nil && filepath.Dir(inst.Bases) != inst.BasesDir() {
				sets = append(sets, base.Listed{Dir: filepath.Dir(index[base.Run].Layout), Index: index}) // install --bases
			}
			if len(sets) == 0 {
				return bulwark.Fail(bulwark.KindNotFound, "There are no base images.", "Add those of the release with: bulwark bases add FILE"+atRoot(inst), nil)
			}
			for _, s := range sets {
				use := ""
				if s.Dir == inst.Bases {
					use = ", in use"
				}
				fmt.Fprintf(e.stdout, "%s%s\n", s.Dir, use)
				for _, name := range slices.Sorted(maps.Keys(s.Index)) {
					var versions []string
					for _, part := range slices.Sorted(maps.Keys(s.Index[name].Versions)) {
						versions = append(versions, part+" "+s.Index[name].Versions[part])
					}
					fmt.Fprintln(e.stdout, strings.TrimRight(fmt.Sprintf("  %-13s %s  %s", name, s.Index[name].Digest, strings.Join(versions, ", ")), " "))
				}
			}
			return nil
		},
	}
	rootFlag(cmd, &root)
	return cmd
}

func basesMakeCommand(e *env) *cobra.Command {
	var dir, engine, cache string
	cmd := &cobra.Command{
		Use: "make", Short: "Make base images from Debian's signed packages, as root", Args: cobra.NoArgs,
		Long:    "Makes the base images on this machine in place of those of the release. It needs mmdebstrap, Go and npm, and takes some minutes.",
		Example: "  # bulwark bases make\n  # bulwark install --bases /var/cache/bulwark/bases",
		RunE: func(cmd *cobra.Command, _ []string) error {
			index, err := base.Make(cmd.Context(), dir, base.Options{EngineBin: engine, CacheDir: cache, Env: os.Environ()}, e.stderr)
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(index)) {
				fmt.Fprintf(e.stdout, "%s %s\n", name, index[name].Digest)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/var/cache/bulwark/bases", "where to put them")
	cmd.Flags().StringVar(&engine, "engine", install.DefaultEngine, "directory of runc and buildkitd")
	cmd.Flags().StringVar(&cache, "cache", "", "where to keep downloads")
	return cmd
}

// Command makebases makes the base images on a developer's or a CI machine, where "bulwark bases make" is not installed;
// the Makefile's target "bases" runs it. It prints the directory of the newest bases. With -archive it writes them as the file that
// "bulwark bases add" takes, and prints that file's name.
//
// It promises no more than package base, and whoever owns it owns every app that is built on its bases.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bulwark-paas/bulwark/internal/base"
)

func main() {
	dir := flag.String("dir", "/var/cache/bulwark/bases", "directory that holds the bases")
	cache := flag.String("cache", "/var/cache/bulwark/downloads", "directory that keeps downloads")
	engine := flag.String("engine", "", "directory of buildkitd and runc, as make engine-tools prints it")
	only := flag.String("only", "", "names of the bases wanted, with commas; empty means all")
	archive := flag.String("archive", "", "directory for an archive of the bases")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opt := base.Options{EngineBin: *engine, CacheDir: *cache, Env: os.Environ()}
	if *only != "" {
		opt.Only = strings.Split(*only, ",")
	}
	index, err := base.Make(ctx, *dir, opt, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "makebases:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
	if *archive == "" {
		fmt.Println(filepath.Dir(index[base.Run].Layout))
		return
	}
	name, err := pack(index, *archive)
	if err != nil {
		fmt.Fprintln(os.Stderr, "makebases:", err)
		os.Exit(1)
	}
	fmt.Println(name)
}

// pack writes the archive; its name holds its key, which is known when it is written.
func pack(index base.Index, dir string) (string, error) {
	f, err := os.CreateTemp(dir, ".bases-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(f.Name()) }() // no effect once renamed
	key, err := base.Pack(index, f)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return "", err
	}
	name := filepath.Join(dir, "bulwark-bases_"+key+"_linux_amd64.tar")
	return name, os.Rename(f.Name(), name)
}

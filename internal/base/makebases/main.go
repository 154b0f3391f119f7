// Command makebases makes the base images on a developer's or a CI machine, where "bulwark bases make" is not installed;
// the Makefile's target "bases" runs it. It prints the directory of the newest bases.
//
// It promises no more than package base, and whoever owns it owns every app that is built on its bases.
package main

import (
	"context"
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
	fmt.Println(filepath.Dir(index[base.Run].Layout))
}

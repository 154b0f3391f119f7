// Command bulwark-static serves the files of a static site over HTTP; the builder puts it into the site's image.
//
//	bulwark-static DIRECTORY
//
// It listens on $PORT (8080 if unset), on all addresses of its instance. It serves GET and HEAD of regular files below
// DIRECTORY and index.html for a directory; it lists no directory, follows no link out of DIRECTORY (os.Root), and serves
// nothing whose name begins with a dot but /.well-known/. A request for /about is answered with about.html if there is
// one. If there is a 404.html, it is what an unknown path gets.
//
// An attacker who owns it has what any instance has: the files of one public site.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string, port string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: bulwark-static DIRECTORY")
	}
	root, err := os.OpenRoot(args[0])
	if err != nil {
		return err
	}
	if port == "" {
		port = "8080"
	}
	srv := &http.Server{
		Addr: ":" + port, Handler: &site{root: root},
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 25*time.Second)
		defer cancel()
		done <- srv.Shutdown(grace)
	}()
	log.Printf("serving %s on port %s", args[0], port)
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return <-done
}

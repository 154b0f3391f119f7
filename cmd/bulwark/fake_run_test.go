package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/terminal"
)

// once are the calls for what runs once.
func (f *fake) once(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/apps/{app}/run", f.run)
	job := client.CronJob{Name: "cleanup", Schedule: "30 3 * * *", Command: "./cleanup", Next: time.Now().Add(20*time.Minute + time.Second)}
	mux.HandleFunc("GET /v1/apps/{app}/cron", f.mine(func(*http.Request, *fakeApp) (any, error) {
		return []client.CronJob{job, {Name: "never", Schedule: "0 0 30 2 *", Command: "true"}}, nil
	}))
	mux.HandleFunc("POST /v1/apps/{app}/cron/{job}/run", f.mine(func(r *http.Request, _ *fakeApp) (any, error) {
		if r.PathValue("job") != "cleanup" {
			return nil, bulwark.Failf(bulwark.KindNotFound, "There is no such cron job.")
		}
		code, at := 3, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		run := client.CronRun{Instance: bulwark.NewInstanceID(), Release: 1, Due: at, Started: at, Ended: at.Add(2 * time.Second), Manual: true, State: "failed", ExitCode: &code, Reason: "it ended with exit code 3"}
		skipped := client.CronRun{Instance: bulwark.NewInstanceID(), Release: 1, Due: at.Add(time.Minute), State: "skipped", Reason: "the run before it still goes on"}
		job.Runs = []client.CronRun{skipped, run}
		return run, nil
	}))
}

// run is the node's end of a command; commands are those that echoed knows.
func (f *fake) run(w http.ResponseWriter, r *http.Request) {
	refuse := func(err error) {
		w.WriteHeader(http.StatusConflict)
		json.NewEncoder(w).Encode(err)
	}
	env, err := signed(r)
	if err != nil {
		refuse(bulwark.Invalid("no statement", ""))
		return
	}
	receipt, body, bundle, err := f.ledger.Run(r.Context(), env)
	if err != nil {
		refuse(err)
		return
	}
	launch, err := f.ledger.Launch(r.Context(), *bundle)
	if err != nil {
		refuse(err)
		return
	}
	welcome := terminal.Welcome{Node: f.ledger.Node(), Statement: receipt.Digest, App: receipt.App, Release: launch.Release.Generation,
		Instance: "ins_00000000000000000000000000", Name: "run.1"}
	key := f.key
	if f.forge == "run" {
		welcome.Statement = bulwark.Sum([]byte("other"))
	}
	if body.Detach {
		b, err := terminal.SealWelcome(welcome, key)
		if err != nil {
			panic(err)
		}
		json.NewEncoder(w).Encode(client.Ran{Welcome: b})
		return
	}
	b, open, err := terminal.Accept(welcome, body.Recipient, key)
	if err != nil {
		panic(err)
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(bulwark.Failf(bulwark.KindInvalid, "%v", err))
		return
	}
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bulwark-terminal\r\n\r\n")
	terminal.WriteWelcome(conn, b)
	if f.forge == "cut" {
		conn.Close()
		return
	}
	stream, err := open(conn)
	if err != nil {
		panic(err)
	}
	stream.Host(r.Context(), func(start terminal.Start, s terminal.Streams) (terminal.Process, error) {
		if body.Argv[0] == "busy" {
			return nil, bulwark.Fail(bulwark.KindBusy, "Too many.", "Wait.", nil)
		}
		p := &echoed{exit: make(chan int, 1)}
		go func() {
			fmt.Fprintf(s.Stdout, "%s tty=%t size=%s term=%s\n", strings.Join(body.Argv, "|"), body.Terminal, body.Size, start.Term)
			fmt.Fprintln(s.Stderr, "a warning")
			io.Copy(s.Stdout, s.Stdin)
			s.Stdout.Close()
			s.Stderr.Close()
			code := 0
			fmt.Sscanf(body.Argv[len(body.Argv)-1], "%d", &code)
			p.exit <- code
		}()
		return p, nil
	})
}

// echoed is a command that prints what it was given and ends with the number that is its last argument.
type echoed struct{ exit chan int }

func (*echoed) Resize(terminal.Window) {}
func (*echoed) Signal(syscall.Signal)  {}
func (*echoed) End()                   {}
func (e *echoed) Wait() (int, error)   { return <-e.exit, nil }

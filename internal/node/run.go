package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
	"github.com/bulwark-paas/bulwark/internal/terminal"
)

// The bounds of one-off instances.
const (
	maxRuns  = 10 // of an app at a time
	hangTime = 2 * time.Second
	killTime = 8 * time.Second // after hangTime
)

// oneOff is a command that a person signed for, before it starts.
type oneOff struct {
	in      nodeapi.Start
	body    *statement.Run
	launch  *ledger.Launch
	welcome terminal.Welcome
}

// run takes a statement app.run. Everything but the command and its size comes from the promoted release, which is verified
// as for any other start. The answer to a detached one is its welcome; any other connection becomes the terminal's, which
// only the signer and this process can read.
func (n *Node) run(w http.ResponseWriter, r *http.Request) {
	o, free, err := n.accept(r)
	if err == nil {
		defer free()
		if o.body.Detach {
			err = n.runDetached(w, r, o)
		} else {
			err = n.runAttached(w, r, o)
		}
	}
	if err != nil {
		n.refuse(w, err)
	}
}

// accept verifies a statement and reserves a place for its instance.
func (n *Node) accept(r *http.Request) (*oneOff, func(), error) {
	var in nodeapi.Document
	if err := read(r, &in); err != nil {
		return nil, nil, err
	}
	receipt, body, bundle, err := n.ledger.Run(r.Context(), in.Envelope)
	if err != nil {
		return nil, nil, err
	}
	launch, err := n.ledger.Launch(r.Context(), *bundle)
	if err != nil {
		return nil, nil, err
	}
	number, free, err := n.instances.reserve(receipt.App)
	if err != nil {
		return nil, nil, err
	}
	start := nodeapi.Start{Instance: bulwark.NewInstanceID(), Process: bulwark.ProcessRun, Index: number}
	return &oneOff{in: start, body: body, launch: launch, welcome: terminal.Welcome{Node: n.ledger.Node(), Statement: receipt.Digest, App: receipt.App,
		Release: launch.Release.Generation, Instance: start.Instance, Name: fmt.Sprintf("%s.%d", start.Process, number), Time: time.Now().UTC()}}, free, nil
}

func (n *Node) runDetached(w http.ResponseWriter, r *http.Request, o *oneOff) error {
	welcome, err := terminal.SealWelcome(o.welcome, n.keys.node)
	if err != nil {
		return err
	}
	if _, err := n.instances.bringOnce(r.Context(), o, nodeapi.KindDetached, nil); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(nodeapi.Ran{Welcome: welcome})
}

// runAttached returns an error only while it can still be answered with one.
func (n *Node) runAttached(w http.ResponseWriter, r *http.Request, o *oneOff) error {
	welcome, open, err := terminal.Accept(o.welcome, o.body.Recipient, n.keys.node)
	if err != nil {
		return err
	}
	conn, err := hijack(w)
	if err != nil {
		return err
	}
	stream, err := open(conn)
	if err == nil {
		err = terminal.WriteWelcome(conn, welcome)
	}
	if err != nil {
		conn.Close()
		return nil // who asked is gone
	}
	ctx, cancel := context.WithTimeout(r.Context(), onceTime)
	defer cancel()
	var p *attached
	err = stream.Host(ctx, func(start terminal.Start, streams terminal.Streams) (terminal.Process, error) {
		i, err := n.instances.bringOnce(ctx, o, nodeapi.KindRun, func(s *driver.Spec) { attach(s, n.instances.dirs.fifos, o.body.Terminal, start, streams) })
		if err != nil {
			return nil, err
		}
		p = &attached{n: n.instances, i: i}
		return p, nil
	})
	if err != nil {
		n.config.Log.Info("a terminal ended", "instance", o.in.Instance, "error", err.Error())
	}
	if p != nil {
		p.forget()
	}
	return nil
}

// hijack takes a connection over for a terminal.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if buf.Reader.Buffered() > 0 {
		conn.Close()
		return nil, errors.New("node: bytes before the upgrade")
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", nodeapi.Upgrade)
	return conn, err
}

// attach connects an instance's spec to a terminal.
func attach(s *driver.Spec, fifos string, tty bool, start terminal.Start, to terminal.Streams) {
	s.LogFile = ""
	s.Streams = &driver.Streams{Dir: fifos, Stdin: to.Stdin, Stdout: to.Stdout, Stderr: to.Stderr, Terminal: tty, Columns: start.Columns, Rows: start.Rows}
	if !tty {
		return
	}
	term := start.Term
	if term == "" {
		term = "xterm"
	}
	s.Env = append(s.Env, "BULWARK_TERMINAL=1", "TERM="+term)
}

// bringOnce starts a one-off instance.
func (n *instances) bringOnce(ctx context.Context, o *oneOff, kind nodeapi.Kind, amend func(*driver.Spec)) (*instance, error) {
	return n.bring(ctx, o.in, o.launch, bulwark.Command{Argv: o.body.Argv}, func(i *instance) {
		i.once(kind, o.welcome.Name, strings.Join(o.body.Argv, " "), o.body.Size)
		i.labels[labelCause] = string(o.welcome.Statement)
		i.amend = func(s *driver.Spec) {
			s.Limits = o.body.Size.Limits()
			if amend != nil {
				amend(s)
			}
		}
	})
}

// reserve gives a one-off instance its number: the smallest that no other of the app has.
func (n *instances) reserve(app bulwark.AppID) (number int, free func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := map[string]bool{}
	for _, i := range n.all {
		if i.App == app {
			taken[i.name] = true
		}
	}
	for number = 1; number <= maxRuns; number++ {
		if n.numbers[app][number] || taken[fmt.Sprintf("%s.%d", bulwark.ProcessRun, number)] {
			continue
		}
		if n.numbers[app] == nil {
			n.numbers[app] = map[int]bool{}
		}
		n.numbers[app][number] = true
		return number, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if delete(n.numbers[app], number); len(n.numbers[app]) == 0 {
				delete(n.numbers, app)
			}
		}, nil
	}
	return 0, nil, bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("The app has %d one-off instances already.", maxRuns),
		"Wait for one to end, see bulwark ps; a detached one that has ended is kept for an hour.", nil)
}

// attached is a one-off instance with somebody who listens.
type attached struct {
	n *instances
	i *instance
}

// Resize implements [terminal.Process].
func (p *attached) Resize(w terminal.Window) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := p.n.driver.Resize(ctx, p.i.Instance.Instance, w.Columns, w.Rows); err != nil && !p.over() {
		p.n.log.Debug("a terminal was not resized", "instance", p.i.Instance.Instance, "error", err)
	}
}

// Signal implements [terminal.Process].
func (p *attached) Signal(s syscall.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.n.driver.Signal(ctx, p.i.Instance.Instance, s); err != nil && !p.over() {
		p.n.log.Warn("a signal was not passed on", "instance", p.i.Instance.Instance, "error", err)
	}
}

// End implements [terminal.Process]: SIGHUP, as a terminal that hangs up sends, then SIGTERM, then SIGKILL.
func (p *attached) End() {
	p.Signal(syscall.SIGHUP)
	timer := time.NewTimer(hangTime)
	defer timer.Stop()
	select {
	case <-p.i.gone:
	case <-timer.C:
		p.forget()
	}
}

// Wait implements [terminal.Process].
func (p *attached) Wait() (int, error) {
	<-p.i.gone
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return p.i.ExitCode, nil
}

func (p *attached) over() bool { return p.n.over(p.i.Instance.Instance) }

// forget stops the instance if it runs, and takes away what it leaves behind.
func (p *attached) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	id := p.i.Instance.Instance
	if err := p.n.end(ctx, nodeapi.Stop{Instance: id, Grace: bulwark.Duration(killTime)}); err != nil {
		p.n.log.Error("a one-off instance was not ended", "instance", id, "error", err)
		p.n.isOver(p.i, 128+int(syscall.SIGKILL)) // nobody waits for it any longer
	}
}

// endLost ends the commands of who lost the right to run them. Each is looked up anew, after this call has been answered.
func (n *Node) endLost() {
	n.instances.endLost(func(cause bulwark.Digest) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		r, err := n.ledger.Accepted(ctx, cause)
		if err != nil {
			return err
		}
		return n.ledger.Still(ctx, r)
	})
}

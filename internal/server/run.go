package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// run passes a one-off command on to the node. For one with a terminal the server is a pipe between the person and the node:
// what goes through it is encrypted and authenticated from end to end, see package terminal.
func (s *Server) run(ctx context.Context, actor access.Actor, in *appSignedIn) (http.HandlerFunc, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	st := unverified(in.Body.Envelope)
	if st.Kind != statement.KindRun || st.App != a.ID {
		return nil, otherApp()
	}
	// No entry, no command. Its words are in the statement, which the node keeps; they may be nobody else's business.
	e := audit.Entry{Project: a.Project, Actor: actor.Person, Action: string(statement.KindRun), Resource: access.App(a.Name).String(), Outcome: audit.Asked,
		Document: bulwark.Sum(in.Body.Envelope), Detail: string(st.ID)}
	if err := s.note(ctx, e); err != nil {
		return nil, err
	}
	ran, conn, err := s.node.Run(ctx, nodeapi.Document{Envelope: in.Body.Envelope})
	if err != nil {
		return nil, err
	}
	if err := s.tookPlace(ctx, e); err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, err
	}
	if conn == nil {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(client.Ran{Welcome: ran.Welcome}) // who asked may be gone; the command runs
		}, nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		defer conn.Close()
		if err := relay(r.Context(), w, conn); err != nil {
			s.log.Debug("a terminal was not passed on", "app", a.Name, "error", err)
		}
	}, nil
}

// relay makes the connection of a request one with the node, until one side closes or ctx ends.
func relay(ctx context.Context, w http.ResponseWriter, node io.ReadWriteCloser) error {
	person, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return bulwark.Fail(bulwark.KindInvalid, "A terminal needs HTTP/1.1.", "", err)
	}
	defer person.Close()
	if buf.Reader.Buffered() > 0 {
		return errors.New("server: bytes before the upgrade")
	}
	if _, err := fmt.Fprintf(person, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", nodeapi.Upgrade); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		person.Close()
		node.Close()
	})
	defer stop()
	// Both ends say close inside the stream before they close, so whichever closes first has nothing more to come.
	done := make(chan error, 2)
	go func() { done <- pass(node, person) }()
	go func() { done <- pass(person, node) }()
	err = <-done
	person.Close()
	node.Close()
	if second := <-done; err == nil {
		err = second
	}
	return err
}

func pass(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

package edge

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// forceHeader names the apps (ids, separated by commas) that a PUT /table may leave without instances.
const forceHeader = "Bulwark-Force"

// leftHeader is in every answer of an edge that another one has taken over from: it did nothing of what it was asked.
const leftHeader = "Bulwark-Left"

// defaultDrain is how long a drain waits if it does not say.
const defaultDrain = 30 * time.Second

// guarded accepts only peers of certain users.
type guarded struct {
	*net.UnixListener
	uids   []uint32
	logger *slog.Logger
}

// Accept waits for the next peer that may connect; others are hung up on.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		pid, uid, _, err := fdpass.Peer(c)
		if err == nil && slices.Contains(g.uids, uid) {
			return c, nil
		}
		g.logger.Warn("refused a connection", "socket", g.Addr().String(), "uid", uid, "pid", pid, "error", err)
		c.Close()
	}
}

// privateServer is a server for processes of ours.
func privateServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: readHeaderTime, IdleTimeout: keepAliveTime, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: errorLog(logger)}
}

// errorLog takes what net/http has to say. It is about single connections, of which a client can make thousands, so it
// is debugging output.
func errorLog(logger *slog.Logger) *log.Logger {
	return slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
}

// controlServer is the server's way to tell the edge what to serve.
func (e *edge) controlServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /table", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(encodeTable(e.tables.current.Load().table))
	})
	mux.HandleFunc("PUT /table", func(w http.ResponseWriter, r *http.Request) { answer(w, e.putTable(r)) })
	mux.HandleFunc("PATCH /table", func(w http.ResponseWriter, r *http.Request) { answer(w, e.patchTable(r)) })
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		left, err := e.drain(r)
		if err != nil {
			answer(w, err)
			return
		}
		reply(w, http.StatusOK, bulwark.Drained{Left: left})
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, e.stats()) })
	mux.HandleFunc("GET /metrics", e.metrics)
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, r *http.Request) {
		events, err := e.accessEvents(r)
		if err != nil {
			answer(w, err)
			return
		}
		reply(w, http.StatusOK, events)
	})
	mux.HandleFunc("GET /patches", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, e.patches.stats()) })
	mux.HandleFunc("GET /shield", func(w http.ResponseWriter, r *http.Request) {
		s, err := e.shieldStats(r)
		if err != nil {
			answer(w, err)
			return
		}
		reply(w, http.StatusOK, s)
	})
	return privateServer(e.unlessLeft(mux), e.cfg.Logger)
}

// unlessLeft answers only while this edge is the one that serves. A caller whose connection leads to one that only finishes what it
// answers would have it take a table that its successor never sees, and say that an instance was drained which the successor still uses.
func (e *edge) unlessLeft(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.leaving.Load() {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		w.Header().Set(leftHeader, "1")
		answer(w, bulwark.Fail(bulwark.KindUnavailable, "Another edge has taken over.", "Connect again.", nil))
	})
}

func (e *edge) putTable(r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	t, err := decodeTable(b)
	if err != nil {
		return err
	}
	var force []bulwark.AppID
	for _, s := range strings.Split(r.Header.Get(forceHeader), ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		id, err := bulwark.ParseAppID(s)
		if err != nil {
			return err
		}
		force = append(force, id)
	}
	return e.tables.swap(t, force, func(b []byte) error { return e.store.keep(keptTable, b) })
}

func (e *edge) patchTable(r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	p, err := decodePatch(b)
	if err != nil {
		return err
	}
	return e.tables.patch(p, func(b []byte) error { return e.store.keep(keptTable, b) })
}

// drain waits until an instance that left the table has no request any more, and returns how many are left.
func (e *edge) drain(r *http.Request) (int, error) {
	b, err := readBody(r)
	if err != nil {
		return 0, err
	}
	var d bulwark.Drain
	if err := fdpass.Decode(b, &d); err != nil {
		return 0, err
	}
	i := e.tables.find(d.Instance)
	if i == nil {
		return 0, nil
	}
	if !i.retired.Load() {
		return 0, bulwark.Fail(bulwark.KindConflict, "The instance is in the table and still gets requests.", "Send a table without it first.", nil)
	}
	timeout := time.Duration(d.Timeout)
	if timeout <= 0 {
		timeout = defaultDrain
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	select { // the edge before, which has the table of its last moment, still answers on connections that stand
	case <-ctx.Done():
	case <-time.After(time.Until(e.alone)):
	}
	return i.drain(ctx), nil
}

func (e *edge) stats() bulwark.EdgeStats {
	s := e.tables.current.Load()
	out := bulwark.EdgeStats{Generation: s.table.Generation, DialPresent: e.dialer.present(), Requests: e.requests.Load(),
		LogDropped: e.log.dropped.Load(), Apps: map[bulwark.AppID]bulwark.AppStats{}, Instances: map[bulwark.InstanceID]bulwark.InstanceStats{}}
	for id, a := range s.apps {
		st := bulwark.AppStats{Waiting: int(a.waiting.Load())}
		for c := range a.status {
			st.Status[c] = a.status[c].Load()
		}
		out.Apps[id] = st
	}
	for _, i := range e.tables.all() {
		out.Instances[i.id] = bulwark.InstanceStats{InFlight: int(i.inFlight.Load()), Requests: i.requests.Load(), Failed: i.failed.Load(),
			Idle: i.conns.count()}
	}
	return out
}

func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxStored))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "The message is larger than %d bytes.", maxStored)
	}
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The message did not arrive whole.", "", err)
	}
	return b, nil
}

// answer ends a request that has no result but an error or none.
func answer(w http.ResponseWriter, err error) {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	status := http.StatusInternalServerError
	switch bulwark.KindOf(err) {
	case bulwark.KindInvalid:
		status = http.StatusBadRequest
	case bulwark.KindConflict:
		status = http.StatusConflict
	case bulwark.KindTooLarge:
		status = http.StatusRequestEntityTooLarge
	case bulwark.KindUnavailable:
		status = http.StatusServiceUnavailable
	}
	e, ok := errors.AsType[*bulwark.Error](err)
	if !ok {
		e = &bulwark.Error{Kind: bulwark.KindInternal, Message: "The edge could not do that."}
	}
	reply(w, status, e)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a peer that is gone needs no answer
}

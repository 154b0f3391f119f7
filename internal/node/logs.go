package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/applogs"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// logs answers with the lines of an instance's log, and goes on with new ones if asked to. The lines are the app's own
// words: bounded in length, and shown as they are only after control characters were taken out.
func (n *Node) logs(w http.ResponseWriter, r *http.Request) {
	var in nodeapi.Logs
	if err := read(r, &in); err != nil {
		n.refuse(w, err)
		return
	}
	f, err := os.Open(n.instances.logFile(in.Instance))
	if err != nil {
		n.refuse(w, bulwark.Fail(bulwark.KindNotFound, "There is no log of this instance.", "", err))
		return
	}
	defer f.Close()
	if in.Tail > 0 {
		if err := seekTail(f, in.Tail); err != nil {
			n.refuse(w, err)
			return
		}
	}
	n.follows(r.Context(), w, f, in)
}

func (n *Node) follows(ctx context.Context, w http.ResponseWriter, f *os.File, in nodeapi.Logs) {
	enc := json.NewEncoder(w)
	lines := bufio.NewReaderSize(f, maxLogLine)
	var rest []byte
	over := false
	for {
		line, err := lines.ReadSlice('\n')                   // the rest of a longer one comes as the next
		rest = append(rest, bytes.TrimLeft(line, "\x00")...) // what the collector gave back reads as zeros
		if err == nil || len(rest) >= maxLogLine {
			if enc.Encode(nodeapi.LogLine{Instance: in.Instance, Text: clean(string(rest))}) != nil {
				return
			}
			rest = rest[:0]
			continue
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if !errors.Is(err, io.EOF) || !in.Follow || over {
			if len(rest) > 0 {
				_ = enc.Encode(nodeapi.LogLine{Instance: in.Instance, Text: clean(string(rest))}) // who asked may be gone
			}
			return
		}
		w.(http.Flusher).Flush()
		// One more look after the end: the shim writes what it has before the engine tells of the exit.
		over = in.UntilEnd && n.instances.over(in.Instance)
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// seekTail moves to the beginning of the last lines of f.
func seekTail(f *os.File, lines int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	at := end
	for at > 0 {
		size := min(int64(len(buf)), at)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] == '\n' && at+i != end-1 {
				if lines--; lines == 0 {
					_, err := f.Seek(at+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// hostsChanged tells dial the host names of an app's instances again: a claim is good at once.
func (n *instances) hostsChanged(ctx context.Context, app bulwark.AppID) {
	n.mu.Lock()
	var mine []*instance
	for _, i := range n.all {
		if i.App == app && !i.Phase.Over() && i.Phase != nodeapi.PhaseStopping {
			mine = append(mine, i)
		}
	}
	n.mu.Unlock()
	if len(mine) == 0 {
		return
	}
	_, err := n.ledger.Hosts(ctx, app)
	destroyed := bulwark.KindOf(err) == bulwark.KindNotFound
	for _, i := range mine {
		if destroyed { // nobody is led there any more, whatever the edge's table says
			if err := n.dial.unregister(ctx, i.Instance.Instance); err != nil {
				n.log.Warn("dial did not forget an instance", "instance", i.Instance.Instance, "error", err)
			}
			continue
		}
		if n.dial.knows(i.Instance.Instance) { // one that was not healthy yet is told with the hosts of that moment
			n.register(ctx, i)
		}
	}
}

// appLogs answers with an app's log, line by line.
func (n *Node) appLogs(w http.ResponseWriter, r *http.Request) {
	var in nodeapi.AppLogs
	if err := read(r, &in); err != nil {
		n.refuse(w, err)
		return
	}
	enc := json.NewEncoder(w)
	err := n.instances.applogs.Read(r.Context(), in.App, in.Tail, in.Follow, func(l applogs.Line) error {
		if err := enc.Encode(nodeapi.AppLogLine(l)); err != nil {
			return err
		}
		if in.Follow {
			w.(http.Flusher).Flush()
		}
		return nil
	})
	if err != nil && r.Context().Err() == nil {
		n.config.Log.Info("a log was not read to its end", "app", in.App, "error", err)
	}
}

package nodeapi

import (
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// An answer that is there and is not understood was taken for a node that is away: it was asked for again and again, and people were told to
// try again. One that is cut off is one of a node that is away.
func TestAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "node")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/odd", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Write([]byte(`[{"name":"ana","person":"nobody"}]`))
	})
	mux.HandleFunc("POST /v1/invited", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`[{"name":"ana"}]`))
	})
	mux.HandleFunc("POST /v1/cut", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte(`[{"name":`))
			return
		}
		w.Write([]byte(`[]`))
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	defer srv.Close()

	node := NewClient(socket)
	var all []Member
	if err := node.Call(t.Context(), "odd", struct{}{}, &all); bulwark.KindOf(err) != bulwark.KindInternal || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	if err := node.Call(t.Context(), "invited", struct{}{}, &all); err != nil || len(all) != 1 || all[0].Person != "" {
		t.Errorf("%v, %v", all, err)
	}
	asked.Store(0)
	if err := node.Call(t.Context(), "cut", struct{}{}, &all); err != nil || asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

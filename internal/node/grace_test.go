package node

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/applogs"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// A server that lets a destroyed app run on has it for two minutes: then the node ends it. One that came back is left alone.
func TestLeft(t *testing.T) {
	seen := map[bulwark.InstanceID]time.Time{}
	all := []nodeapi.Instance{{Instance: "ins_a", App: "app_gone"}, {Instance: "ins_b", App: "app_here"}, {Instance: "ins_c", App: "app_back"}}
	back := false
	gone := func(app bulwark.AppID) bool { return app == "app_gone" || app == "app_back" && !back }
	now := time.Now()
	if got := left(all, seen, now, gone); got != nil {
		t.Fatalf("%v are ended at once", got)
	}
	back = true
	if got := left(all, seen, now.Add(leftFor-time.Second), gone); got != nil {
		t.Fatalf("%v are ended too soon", got)
	}
	if got := left(all, seen, now.Add(leftFor), gone); !slices.Equal(got, []bulwark.InstanceID{"ins_a"}) {
		t.Fatalf("%v are ended", got)
	}
	back = false // destroyed once more: its time begins anew
	if got := left(all[1:], seen, now.Add(leftFor), gone); got != nil || len(seen) != 1 {
		t.Fatalf("%v are ended; of what is gone it keeps %v", got, seen)
	}
}

// What goes with an app is found by its log's name, both of its files; what is no log stays.
func TestAppsWithLogs(t *testing.T) {
	dir := t.TempDir()
	s, err := applogs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	app := bulwark.NewAppID()
	for _, name := range []string{string(app) + ".log", string(app) + ".log.1", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := s.Apps(); err != nil || !slices.Equal(all, []bulwark.AppID{app}) {
		t.Fatal(all, err)
	}
	if err := s.Remove(app); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Apps(); err != nil || len(all) > 0 {
		t.Fatal(all, err)
	}
}

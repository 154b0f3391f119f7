package inspect_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/audit/translog"
)

// victim is the environment variable that tells this test's own binary to write into a rig until it is killed.
const victim = "BULWARK_TEST_AUDIT_VICTIM"

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(victim); ok {
		beVictim(dir)
	}
	os.Exit(m.Run())
}

// beVictim integrates what waits, and writes more; it says each number of entry that was committed.
func beVictim(dir string) {
	seed, err := hex.DecodeString(os.Getenv(victim + "_KEY"))
	if err != nil {
		panic(err)
	}
	t := &testing.T{}
	r := &rig{t: t, dir: dir, key: ed25519.NewKeyFromSeed(seed), clock: time.Now}
	r.open()
	l := translog.New(translog.Config{DB: r.store, Dir: r.log(), Node: r, Log: discard, Every: 100 * time.Millisecond})
	go l.Run(context.Background())
	for i := 0; ; i++ {
		r.fillIn(context.Background(), 1+i%40)
		n, err := audit.Newest(context.Background(), r.store.Reader())
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d\n", n)
	}
}

// A server that is killed at any moment loses no entry that was committed, doubles none, and keeps their order; the node
// signs the log on.
func TestKilled(t *testing.T) {
	r := newRig(t)
	self, err := os.Executable()
	must(t, err)
	const kills = 25
	committed := 0
	for range kills {
		r.close()
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), victim+"="+r.dir, victim+"_KEY="+hex.EncodeToString(r.key.Seed()))
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("it wrote nothing")
		}
		// From here on it is in the middle of something: a commit, a bundle, a tile, the state, a checkpoint, a mark.
		late := time.AfterFunc(time.Duration(rand.IntN(400_000))*time.Microsecond, func() { cmd.Process.Kill() })
		for ok := true; ok; ok = lines.Scan() {
			if committed, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
		}
		late.Stop()
		_ = cmd.Wait()
		r.open()
	}
	must(t, r.settle())
	// The log is the store's entries, all of them, in their order.
	all, err := audit.List(t.Context(), r.store.Reader(), audit.Query{Most: 1 << 30})
	must(t, err)
	at := len(all)
	report := r.inspect(inspect.Options{Entry: func(index uint64, got audit.Record) {
		if at--; at < 0 {
			return
		}
		want, err := all[at].Leaf()
		must(t, err)
		leaf, err := got.Leaf()
		must(t, err)
		if !bytes.Equal(leaf, want) || *all[at].Index != index {
			t.Errorf("entry %d is\n%s, not\n%s", index, leaf, want)
		}
	}})
	holds(t, report)
	if at != 0 || len(all) < committed || committed < kills {
		t.Errorf("%d entries were committed, %d are there, %d are in the log", committed, len(all), report.Size)
	}
	left, err := filepath.Glob(filepath.Join(r.log(), ".state", "*"))
	must(t, err)
	t.Logf("%d entries, %d kills; state: %s", report.Size, kills, strings.Join(left, " "))
}

package node

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// An instance whose start takes long has its time to fetch the config from then on; one that never asks is not waited for.
func TestConfigIsOfferedFromTheStart(t *testing.T) {
	n := &instances{dirs: dirs{init: t.TempDir()}}
	offer := func() *configOffer {
		t.Helper()
		o, err := n.offerConfig(bulwark.NewInstanceID(), os.Getuid(), map[string]string{"PORT": "5000"})
		must(t, err)
		return o
	}
	const wait = 100 * time.Millisecond
	slow := offer()
	defer slow.close()
	time.Sleep(3 * wait) // the start
	asked := make(chan string, 1)
	go func() {
		c, err := net.Dial("unix", slow.path)
		if err != nil {
			asked <- err.Error()
			return
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		asked <- string(b) + errText(err)
	}()
	must(t, slow.await(wait*50))
	if got := <-asked; got != `{"PORT":"5000"}` {
		t.Errorf("the config that was fetched is %s", got)
	}

	never := offer()
	began := time.Now()
	if err := never.await(wait); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) < wait {
		t.Errorf("nobody asked, after %s: %v", time.Since(began), err)
	}
	never.close()
	if _, err := net.Dial("unix", never.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an offer that was closed: %v", err)
	}

	failed := offer() // the start failed
	failed.close()
	select {
	case err := <-failed.done:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it is still offered")
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

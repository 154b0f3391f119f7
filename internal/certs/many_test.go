package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
)

var orders = flag.Int("orders", 40, "how many names TestMany has certified; 1000 take some minutes")

// TestMain is this process itself, if a test wants to kill it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CERTS_TEST_CHILD"); dir != "" {
		pace := Pace{First: 300 * time.Millisecond, Last: 3 * time.Second, Limited: time.Second, Renew: time.Minute, Tell: 50 * time.Millisecond}
		err := Run(context.Background(), Config{Node: filepath.Join(dir, "node"), Edge: edgecontrol.New(filepath.Join(dir, "issued")),
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Pace: pace}, func() {})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Many names are certified though the authority refuses half of the nonces, is replaced by one that knows nobody, and this process is killed in the
// middle of orders. None is lost, nobody is asked without end, and no second account is made.
func TestMany(t *testing.T) {
	b := newBed(t, func(c *acmetest.Config) { c.NonceReject = 50 })
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CERTS_TEST_CHILD="+b.dir)
		cmd.Stderr = b.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	child := start()
	defer func() { kill(child) }()
	var hosts []bulwark.HostName
	for i := range *orders {
		hosts = append(hosts, bulwark.HostName(fmt.Sprintf("n%d.example.org", i)))
	}
	b.order(hosts...)
	seen := map[bulwark.HostName]bool{}
	missing := func() int {
		for _, h := range hosts { // they are begun in any order
			if !seen[h] && b.certified(h) {
				seen[h] = true
			}
		}
		return *orders - len(seen)
	}
	began := time.Now()
	lives, kills := 1, 0
	for limit := began.Add(time.Minute + time.Duration(*orders)*2*time.Second); ; {
		left := missing()
		if left == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%d of %d have none after %s", left, *orders, time.Since(began))
		}
		done := *orders - left
		if kills < 6 && done >= (kills+1)**orders/8 {
			time.Sleep(rand.N(700 * time.Millisecond)) // somewhere in the middle of orders
			kill(child)
			kills++
			if kills%3 == 0 {
				if err := b.ca.Restart(); err != nil {
					t.Fatal(err)
				}
				lives++
			}
			child = start()
		}
		time.Sleep(time.Second)
	}
	log, err := os.ReadFile(b.ca.Log)
	if err != nil {
		t.Fatal(err)
	}
	asked := bytes.Count(log, []byte("Added order"))
	t.Logf("%d names in %s: %d orders, %d kills, %d authorities", *orders, time.Since(began).Round(time.Second), asked, kills, lives)
	if kills < 6 {
		t.Errorf("it was killed %d times", kills)
	}
	if most := *orders + (kills+lives)*2*atOnce; asked > most {
		t.Errorf("%d orders were made for %d names", asked, *orders)
	}
	if n := bytes.Count(log, []byte("accounts in memory")); n > lives {
		t.Errorf("%d accounts were made with %d authorities", n, lives)
	}
	// After one more kill all of them are there at once, from what is kept.
	kill(child)
	if err := b.edge.PutCertificates(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	child = start()
	clear(seen)
	b.until("all are served again", 30*time.Second, func() error {
		if n := missing(); n > 0 {
			return fmt.Errorf("%d are missing", n)
		}
		return nil
	})
	if again, _ := os.ReadFile(b.ca.Log); bytes.Count(again, []byte("Added order")) != asked {
		t.Error("names that have a certificate were asked for again")
	}
}

// certified tells whether the edge shows a certificate of any authority for a name.
func (b *bed) certified(host bulwark.HostName) bool {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", b.https, &tls.Config{InsecureSkipVerify: true, ServerName: string(host)})
	if err != nil {
		return false
	}
	defer c.Close()
	return strings.Contains(c.ConnectionState().PeerCertificates[0].Issuer.CommonName, "Pebble")
}

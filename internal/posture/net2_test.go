package posture

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// Whether somebody may connect is told without a connection, and for another user without becoming it elsewhere.
func TestKnock(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test acts as other users, so it runs as root: make test")
	}
	dir, err := os.MkdirTemp("/tmp", "bw-knock-")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o711))
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	must(t, os.Chmod(path, 0o600))
	must(t, os.Chown(path, 1234, 1234))
	if err := as(1234, func() error { return knock(path) }); !errors.Is(err, unix.EPROTOTYPE) {
		t.Fatal("who may connect:", err)
	}
	if err := as(stranger, func() error { return knock(path) }); !errors.Is(err, fs.ErrPermission) {
		t.Fatal("who may not connect:", err)
	}
	if os.Geteuid() != 0 {
		t.Fatal("the whole process became another user")
	}
}

func TestSurprise(t *testing.T) {
	var r Record
	dns := cell{netpolicy.Run, netpolicy.Names, netip.MustParseAddrPort("198.19.255.254:53")}
	api := cell{netpolicy.Run, netpolicy.Control, netip.MustParseAddrPort("198.19.255.254:8443")}
	r.surprise(dns, true, "")
	r.surprise(api, false, "")
	for _, c := range r.attacks {
		if !c.Held {
			t.Errorf("%+v is as the matrix has it", c)
		}
	}
	r = Record{}
	r.surprise(dns, false, "")
	r.surprise(api, true, "")
	for _, c := range r.attacks {
		if c.Held {
			t.Errorf("%+v is not as the matrix has it", c)
		}
	}
}

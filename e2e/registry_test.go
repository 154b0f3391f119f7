package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// outside is the internet of a story: registries, each in a network namespace of its own behind a link to this machine, and
// a hosts file that has their names. The file lies over the machine's own in a mount namespace, which the installations
// that are made afterwards run in; the machine itself sees nothing of it. Names that are not in the file are asked of one of
// the registries, where no resolver listens.
//
// The addresses are of 198.51.100.0/24, and on a link of this machine: to the platform they are its neighbours, not the
// internet, as a registry in an office is.
type outside struct {
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
	servers []*registryServer
	files   string // folder with hosts and resolv.conf
	holder  int    // a process in the mount namespace
}

// registryServer is a running registry.
type registryServer struct {
	cmd  *exec.Cmd
	host string // "registry.internal:5000"
	addr netip.Addr
}

// within is what starts a program so that it sees the story's hosts file.
func (o *outside) within() []string {
	if o.holder == 0 {
		return nil
	}
	return []string{"/usr/bin/nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", o.holder), "--"}
}

func (o *outside) end() {
	for _, s := range o.servers {
		s.cmd.Process.Kill() // its namespaces, and its end of the link, go with it
		s.cmd.Wait()
	}
	o.servers = nil
	if o.files != "" {
		os.RemoveAll(o.files)
	}
}

func registry(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: registry HOST [token|elsewhere]")
	}
	s := of(ts)
	o := &s.outside
	if o.ca == nil {
		ts.Check(o.begin(s.work))
		ts.Check(os.WriteFile(filepath.Join(s.work, "outside-ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.ca.Raw}), 0o644))
	}
	mode := ""
	if len(args) == 2 {
		mode = args[1]
	}
	ts.Check(o.start(s.work, args[0], mode))
}

// begin makes the authority that the registries' certificates are of.
func (o *outside) begin(work string) error {
	var err error
	if o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "A small team's authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, o.key.Public(), o.key)
	if err != nil {
		return err
	}
	if o.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if o.files, err = os.MkdirTemp(work, "etc-"); err != nil {
		return err
	}
	own, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.files, "hosts"), own, 0o644) // everybody may read it: the egress process does
}

// start starts a registry for a host, and waits until it answers.
func (o *outside) start(work, host, mode string) error {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return err
	}
	program, err := registryProgram()
	if err != nil {
		return err
	}
	dir := filepath.Join(work, "outside-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := o.certify(dir, name); err != nil {
		return err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nhttp:\n  addr: 0.0.0.0:%s\n  tls: {certificate: %s/cert.pem, key: %s/key.pem}\nstorage:\n  inmemory: {}\n", port, dir, dir)
	switch mode {
	case "token":
		config += "auth:\n  silly: {realm: 'https://auth.internal:5000/token', service: registry}\n"
	case "elsewhere":
		config += "middleware:\n  storage:\n    - name: redirect\n      options: {baseurl: 'https://cdn.internal:5000/'}\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		return err
	}
	s := &registryServer{host: host, cmd: exec.Command(program, "serve", filepath.Join(dir, "config.yml"))}
	s.cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	said, err := os.Create(filepath.Join(dir, "log")) // a file, so that it can be read while it is written
	if err != nil {
		return err
	}
	defer said.Close()
	s.cmd.Stdout, s.cmd.Stderr = said, said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if o.holder == 0 {
		s.cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // which makes all mounts private
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	o.servers = append(o.servers, s)
	if s.addr, err = link(s.cmd.Process.Pid); err != nil {
		return fmt.Errorf("the link to the registry: %w", err)
	}
	if err := o.name(s, name); err != nil {
		return err
	}
	return poll(20*time.Second, func() error {
		res, err := o.client(s).Get("https://" + host + "/v2/")
		if err != nil {
			b, _ := os.ReadFile(said.Name())
			return fmt.Errorf("the registry does not answer: %w\n%s", err, b)
		}
		return res.Body.Close()
	})
}

// name adds a registry's name to the hosts file, and lays the file over the machine's at the first time.
func (o *outside) name(s *registryServer, name string) error {
	f, err := os.OpenFile(filepath.Join(o.files, "hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", s.addr, name)
	if err = errors.Join(err, f.Close()); err != nil || o.holder != 0 {
		return err
	}
	o.holder = s.cmd.Process.Pid
	if err := os.WriteFile(filepath.Join(o.files, "resolv.conf"), fmt.Appendf(nil, "nameserver %s\n", s.addr), 0o644); err != nil {
		return err
	}
	for _, file := range []string{"hosts", "resolv.conf"} {
		argv := append(o.within(), "/usr/bin/mount", "--bind", filepath.Join(o.files, file), "/etc/"+file)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", file, err, out)
		}
	}
	return nil
}

// certify writes a certificate for a name, and its key.
func (o *outside) certify(dir, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: o.ca.NotBefore, NotAfter: o.ca.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, c, o.ca, key.Public(), o.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// registryProgram finds the registry that `make test-tools` builds.
func registryProgram() (string, error) {
	pattern := "/var/cache/bulwark/tools/*/bin/registry"
	if dir := os.Getenv("BULWARK_TEST_TOOLS"); dir != "" {
		pattern = filepath.Join(dir, "registry")
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("there is no registry to test with (%s): `make test-tools` builds it, `make test` says where by BULWARK_TEST_TOOLS", pattern)
	}
	return slices.MaxFunc(found, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return x.ModTime().Compare(y.ModTime())
	}), nil
}

// link makes a link from this machine into the network namespace of a process, and returns the process's address.
func link(pid int) (netip.Addr, error) {
	near, far, err := freePair()
	if err != nil {
		return far, err
	}
	name := fmt.Sprintf("bwe%d", pid)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "x", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return far, err
	}
	here, err := netlink.NewHandle()
	if err != nil {
		return far, err
	}
	defer here.Close()
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return far, err
	}
	defer ns.Close()
	there, err := netlink.NewHandleAt(ns)
	if err != nil {
		return far, err
	}
	defer there.Close()
	return far, errors.Join(raise(here, name, near), raise(there, name+"x", far))
}

// raise gives a link its address and brings it up.
func raise(h *netlink.Handle, name string, a netip.Addr) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(30, 32)}}), h.LinkSetUp(l))
}

// freePair finds two addresses of 198.51.100.0/24 that no link of this machine has.
func freePair() (near, far netip.Addr, err error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return near, far, err
	}
	for i := range 64 {
		n := byte((os.Getpid()+i)%64) * 4
		near, far = netip.AddrFrom4([4]byte{198, 51, 100, n + 1}), netip.AddrFrom4([4]byte{198, 51, 100, n + 2})
		if !slices.ContainsFunc(used, func(a net.Addr) bool { return strings.HasPrefix(a.String(), near.String()+"/") }) {
			return near, far, nil
		}
	}
	return near, far, errors.New("198.51.100.0/24 is in use on this machine")
}

// client speaks to a registry as a person on the team's network does.
func (o *outside) client(s *registryServer) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(o.ca)
	_, port, _ := net.SplitHostPort(s.host)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(s.addr.String(), port))
		}}}
}

// image pushes an image of the stories' app to the registry that was started last.
func image(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image NAME:TAG VERSION")
	}
	o := &of(ts).outside
	name, tag, _ := strings.Cut(args[0], ":")
	archive, err := probeImage(args[1])
	ts.Check(err)
	s := o.servers[len(o.servers)-1]
	digest, err := push(o.client(s), "https://"+s.host+"/v2/"+name, tag, archive)
	ts.Check(err)
	ts.Setenv("DIGEST", digest)
}

// push uploads what an OCI archive has, as the distribution specification says.
func push(c *http.Client, at, tag string, archive []byte) (digest string, err error) {
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return "", err
		}
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return "", err
	}
	digest = index.Manifests[0].Digest
	for name, b := range files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && "sha256:"+hex != digest {
			res, err := send(c, http.MethodPost, at+"/blobs/uploads/", "", nil)
			if err != nil {
				return "", err
			}
			to := res.Header.Get("Location")
			if _, err := send(c, http.MethodPut, to+"&digest=sha256:"+hex, "application/octet-stream", b); err != nil {
				return "", err
			}
		}
	}
	_, err = send(c, http.MethodPut, at+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")])
	return digest, err
}

func send(c *http.Client, method, url, kind string, body []byte) (*http.Response, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s\n%s", method, url, res.Status, text)
	}
	return res, err
}

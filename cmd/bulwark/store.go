package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// server is what this machine knows of a server that a person signed in to. Key is the root of all belief in it: it came
// with the login token.
type server struct {
	URL    string           `json:"url"`
	CA     string           `json:"ca"`   // PEM: the only authorities that are believed
	Node   string           `json:"node"` // fingerprint of Key
	Key    []byte           `json:"key"`  // PKIX: the node's
	Domain bulwark.HostName `json:"domain"`
	Git    uint16           `json:"git_port,omitempty"` // of the git server
	Person bulwark.PersonID `json:"person,omitempty"`
	Device string           `json:"device"`            // name of the file with the device key, beside this one
	SSH    string           `json:"ssh_key,omitempty"` // path of the public key that was registered at sign-in
}

// key returns the node's key; openStore has checked that it reads.
func (s server) key() statement.Key {
	k, err := statement.ParseKey(s.Key)
	if err != nil {
		panic("bulwark: the store was opened with an unreadable key")
	}
	return k
}

// host returns the host of the server's address, without its port.
func (s server) host() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// owns reports whether a host name is the server's own: the one of its address, its domain and what lies below, or
// localhost if its domain does.
func (s server) owns(host string) bool {
	domain := string(s.Domain)
	local := domain == "localhost" || strings.HasSuffix(domain, ".localhost")
	return host == s.host() || domain != "" && (host == domain || strings.HasSuffix(host, "."+domain)) || local && host == "localhost"
}

// store is the person's state on this machine: config.json and the device keys, in a directory of their own.
type store struct {
	dir  string
	file storeFile
}

type storeFile struct {
	Default string   `json:"default,omitempty"` // URL
	Servers []server `json:"servers"`
}

// The names of the files.
const (
	configFile = "config.json"
	deviceFile = "device.key"
)

// openStore reads the state; there may be none yet.
func openStore(e *env) (*store, error) {
	dir := e.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // the XDG specification has a relative one ignored
		if !filepath.IsAbs(e.home) {
			return nil, bulwark.Invalid("There is no home directory to keep your keys in.", "Set HOME or XDG_CONFIG_HOME.")
		}
		dir = filepath.Join(e.home, ".config")
	}
	st := &store{dir: filepath.Join(dir, "bulwark")}
	path := filepath.Join(st.dir, configFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the file %s cannot be read: %w", path, err)
	}
	broken := func(err error) (*store, error) {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The file "+path+" is not well formed.", "Move it away and sign in again with bulwark login.", err)
	}
	if err := json.Unmarshal(b, &st.file); err != nil {
		return broken(err)
	}
	for _, s := range st.file.Servers {
		// The key and the fingerprint must agree: a statement is signed for the one and answers are verified by the other.
		if k, err := statement.ParseKey(s.Key); err != nil || k.Fingerprint != s.Node || s.Device != filepath.Base(s.Device) {
			return broken(err)
		}
	}
	return st, nil
}

// save writes the state.
func (st *store) save() error {
	if err := st.makeDir(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(st.file, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(st.dir, configFile), append(b, '\n'), 0o600)
}

func (st *store) makeDir() error {
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return fmt.Errorf("the directory %s cannot be made: %w", st.dir, err)
	}
	return nil
}

// find returns the server at an address.
func (st *store) find(address string) (server, bool) {
	i := st.index(address)
	if i < 0 {
		return server{}, false
	}
	return st.file.Servers[i], true
}

func (st *store) index(address string) int {
	return slices.IndexFunc(st.file.Servers, func(s server) bool { return s.URL == address })
}

// put adds a server, or replaces the one at its address, and makes it the default.
func (st *store) put(s server) {
	st.file.Default = s.URL
	if i := st.index(s.URL); i >= 0 {
		st.file.Servers[i] = s
		return
	}
	st.file.Servers = append(st.file.Servers, s)
}

// remove forgets a server.
func (st *store) remove(address string) {
	st.file.Servers = slices.DeleteFunc(st.file.Servers, func(s server) bool { return s.URL == address })
	if st.file.Default == address {
		st.file.Default = ""
		if len(st.file.Servers) > 0 {
			st.file.Default = st.file.Servers[0].URL
		}
	}
}

// choose returns the server at an address, the default one if the address is empty.
func (st *store) choose(address string) (server, error) {
	if len(st.file.Servers) == 0 {
		return server{}, bulwark.Fail(bulwark.KindUnauthorized, "You are not signed in.", "Sign in with bulwark login URL.", nil)
	}
	if address == "" {
		address = st.file.Default
	}
	normal, err := serverURL(address)
	if err != nil {
		return server{}, usage(err)
	}
	if s, ok := st.find(normal); ok {
		return s, nil
	}
	return server{}, bulwark.Fail(bulwark.KindUnauthorized, "You are not signed in at "+normal+".", "Sign in with bulwark login "+normal+".", nil)
}

// byGit returns the address of the server whose git server is at host and port, "" if there is none or more than one.
func (st *store) byGit(host, port string) string {
	var found string
	for _, s := range st.file.Servers {
		if !s.owns(host) || port != "" && s.Git != 0 && port != strconv.Itoa(int(s.Git)) {
			continue
		}
		if found != "" {
			return ""
		}
		found = s.URL
	}
	return found
}

// session opens a connection to a server with the device's key.
func (st *store) session(srv server, now func() time.Time) (*session, error) {
	key, err := st.readKey(srv.Device)
	if err != nil {
		return nil, err
	}
	cl, err := client.New(client.Config{URL: srv.URL, CA: []byte(srv.CA), Device: key})
	if err != nil {
		return nil, err
	}
	return &session{Client: cl, server: srv, device: key, now: now}, nil
}

// readKey reads a device key. One that others can read is refused: it may be known to them already.
func (st *store) readKey(name string) (ed25519.PrivateKey, error) {
	path := filepath.Join(st.dir, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bulwark.Fail(bulwark.KindUnauthorized, "The device key "+path+" is missing.", "Sign in again with bulwark login.", err)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, bulwark.Invalid("The device key "+path+" is not a regular file.", "Sign in again with bulwark login --again.")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The device key %s can be read by others (mode %#o).", path, info.Mode().Perm()),
			"If nobody else uses this machine: chmod 600 "+path+". Else make a new one with bulwark login --again.", nil)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseDeviceKey(path, b)
}

func parseDeviceKey(path string, b []byte) (ed25519.PrivateKey, error) {
	hint := "Make a new one with bulwark login --again."
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, bulwark.Invalid("The device key "+path+" is not well formed.", hint)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ed, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The device key "+path+" is not an Ed25519 key.", hint, err)
	}
	return ed, nil
}

// newKey makes a device key and writes it under a name that no server uses. It is on disk before the server hears of it,
// so that an interrupted sign-in leaves no key that only the server knows.
func (st *store) newKey() (name string, key ed25519.PrivateKey, err error) {
	if err := st.makeDir(); err != nil {
		return "", nil, err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", nil, err
	}
	name = deviceFile
	if _, err := os.Lstat(filepath.Join(st.dir, name)); err == nil {
		name = "device-" + hex.EncodeToString(pub[:4]) + ".key"
	}
	return name, key, atomicfile.Write(filepath.Join(st.dir, name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// dropKey removes a device key that no server uses any more, and says whether it did.
func (st *store) dropKey(name string) (bool, error) {
	if name == "" || slices.ContainsFunc(st.file.Servers, func(s server) bool { return s.Device == name }) {
		return false, nil
	}
	err := os.Remove(filepath.Join(st.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

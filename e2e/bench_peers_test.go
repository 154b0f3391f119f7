//go:build bench

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
)

// peers are what the edge is measured beside. One process of the stories' app is behind all of them, and they have one certificate.
type peers struct {
	dir, host string
	app       string // port of the app
	cmds      []*exec.Cmd
}

// peer is one of them.
type peer struct {
	name string
	port string
	pids []int
}

func newPeers(work, host string) (*peers, error) {
	p := &peers{dir: filepath.Join(work, "peers"), host: host}
	// The app listens on all addresses, where fewer ports are free than on one.
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, err
	}
	_, p.app, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	err = os.MkdirAll(p.dir, 0o755)
	if err == nil {
		err = certificate(p.dir, host)
	}
	if err == nil {
		_, err = p.start("app", []string{"PORT=" + p.app}, with.probe, "serve")
	}
	if err == nil {
		err = poll(10*time.Second, func() error {
			res, err := http.Get("http://127.0.0.1:" + p.app + "/")
			if err == nil {
				res.Body.Close()
			}
			return err
		})
	}
	if err != nil {
		p.end()
		return nil, fmt.Errorf("the app that is measured behind others: %w", err)
	}
	return p, nil
}

// start starts a program; what it says goes to NAME.log.
func (p *peers) start(name string, env []string, argv ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	if *benchPeers != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+filepath.Join(*benchPeers, "usr/lib", debianArch()))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.cmds = append(p.cmds, cmd)
	return cmd, nil
}

// debianArch is where Debian has the libraries of this architecture.
func debianArch() string {
	dirs, _ := filepath.Glob(filepath.Join(*benchPeers, "usr/lib/*-linux-gnu"))
	if len(dirs) == 0 {
		return ""
	}
	return filepath.Base(dirs[0])
}

// serves waits until a peer answers.
func (p *peers) serves(name, port string, cmd *exec.Cmd) (*peer, error) {
	err := poll(30*time.Second, func() error {
		_, err := h2load(p.host, port, 10, "--h1", "-c", "1")
		return err
	})
	var pids []int
	if err == nil {
		pids, err = family(cmd.Process.Pid)
	}
	if err != nil {
		logs := ""
		for _, f := range []string{name + ".log", name + "/error.log"} {
			text, _ := os.ReadFile(filepath.Join(p.dir, f))
			logs += string(text)
		}
		return nil, fmt.Errorf("%s: %w\n%.2000s", name, err, logs)
	}
	return &peer{name: name, port: port, pids: pids}, nil
}

// nginx starts one. modules is what stands at the top of its configuration, rules in its server, and connections is how many a process may have.
func (p *peers) nginx(name string, connections int, modules, rules string) (*peer, error) {
	if *benchPeer == "" {
		return nil, errors.New("there is no nginx to measure beside; make bench and make bench-edge bring it (-nginx)")
	}
	ports, err := freePorts("TLS")
	dir := filepath.Join(p.dir, name)
	if err = errors.Join(err, os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	conf := strings.NewReplacer("MODULES", modules, "RULES", rules, "CONNECTIONS", strconv.Itoa(connections), "CERTS", p.dir, "DIR", dir, "HOST", p.host,
		"TLSPORT", ports["TLS"], "APPPORT", p.app).Replace(nginxConf)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	cmd, err := p.start(name, nil, *benchPeer, "-c", file, "-p", dir, "-e", filepath.Join(dir, "error.log"))
	if err != nil {
		return nil, err
	}
	return p.serves(name, ports["TLS"], cmd)
}

// nginxConf is nginx as it is set up for this job: connections to the app are kept, requests are logged in portions, and the cipher is the one that
// our edge chooses.
const nginxConf = `MODULES
daemon off;
user nobody nogroup;
worker_processes auto;
worker_rlimit_nofile CONNECTIONS;
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections CONNECTIONS; }
http {
	access_log DIR/access.log combined buffer=64k;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi; uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
	keepalive_requests 10000000;
	client_body_buffer_size 128k;
	upstream app { server 127.0.0.1:APPPORT; keepalive 64; keepalive_requests 10000000; }
	server {
		listen 127.0.0.1:TLSPORT ssl http2;
		server_name HOST;
		ssl_certificate CERTS/cert.pem;
		ssl_certificate_key CERTS/key.pem;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		RULES
		location / {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto https;
			add_header Strict-Transport-Security "max-age=31536000";
		}
	}
}
`

// unpacked says that Debian's packages are there.
func unpacked() error {
	if *benchPeers == "" {
		return errors.New("there is nothing to measure beside; make bench-edge brings it (-peers)")
	}
	return nil
}

// modsecurity starts nginx with ModSecurity, which blocks what a rule set takes for an attack: Debian's, or, with ours set, the version of it that the edge has.
func (p *peers) modsecurity(name string, ours bool) (*peer, error) {
	if err := unpacked(); err != nil {
		return nil, err
	}
	dir := filepath.Join(p.dir, name+"-rules")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	usual, err := os.ReadFile(filepath.Join(*benchPeers, "etc/nginx/modsecurity.conf"))
	if err != nil {
		return nil, err
	}
	// As Debian has it, but that it blocks, and that it finds its files here.
	text := strings.NewReplacer("SecRuleEngine DetectionOnly", "SecRuleEngine On", "unicode.mapping", filepath.Join(*benchPeers, "etc/nginx/unicode.mapping"),
		"/var/log/nginx/modsec_audit.log", filepath.Join(dir, "audit.log")).Replace(string(usual))
	rules := filepath.Join(*benchPeers, "usr/share/modsecurity-crs/rules/*.conf")
	setup := filepath.Join(*benchPeers, "etc/modsecurity/crs/crs-setup.conf")
	if ours {
		err := fs.WalkDir(coreruleset.FS, "@owasp_crs", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := fs.ReadFile(coreruleset.FS, name)
			if path.Ext(name) == ".conf" {
				// ModSecurity takes the next rule for the actions of one that has none, but for an empty line between.
				b = regexp.MustCompile(`(?m)^Sec`).ReplaceAll(b, []byte("\nSec"))
			}
			return errors.Join(err, os.WriteFile(filepath.Join(dir, path.Base(name)), b, 0o644))
		})
		b, rerr := fs.ReadFile(coreruleset.FS, "@crs-setup.conf.example")
		rules, setup = filepath.Join(dir, "*.conf"), filepath.Join(dir, "setup")
		if err := errors.Join(err, rerr, os.WriteFile(setup, b, 0o644)); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(p.dir, name+".conf")
	if err := os.WriteFile(file, []byte(text+"\nInclude "+setup+"\nInclude "+rules+"\n"), 0o644); err != nil {
		return nil, err
	}
	modules := filepath.Join(*benchPeers, "usr/lib/nginx/modules")
	return p.nginx(name, 1024, "load_module "+modules+"/ndk_http_module.so;\nload_module "+modules+"/ngx_http_modsecurity_module.so;",
		"modsecurity on;\n\t\tmodsecurity_rules_file "+file+";")
}

// haproxy starts one.
func (p *peers) haproxy() (*peer, error) {
	if err := unpacked(); err != nil {
		return nil, err
	}
	const name = "HAProxy"
	ports, err := freePorts("TLS")
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(filepath.Join(p.dir, "cert.pem"))
	key, kerr := os.ReadFile(filepath.Join(p.dir, "key.pem"))
	both, file := filepath.Join(p.dir, "both.pem"), filepath.Join(p.dir, "haproxy.cfg")
	conf := strings.NewReplacer("BOTH", both, "TLSPORT", ports["TLS"], "APPPORT", p.app).Replace(haproxyConf)
	if err := errors.Join(err, kerr, os.WriteFile(both, append(cert, key...), 0o600), os.WriteFile(file, []byte(conf), 0o644)); err != nil {
		return nil, err
	}
	cmd, err := p.start(name, nil, filepath.Join(*benchPeers, "usr/sbin/haproxy"), "-f", file, "-db")
	if err != nil {
		return nil, err
	}
	return p.serves(name, ports["TLS"], cmd)
}

// haproxyConf does what nginxConf does. Requests are logged to memory: to anything else each would be a system call.
const haproxyConf = `global
	user nobody
	group nogroup
	maxconn 4000
	ssl-default-bind-options ssl-min-ver TLSv1.3
	ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
	log ring@access local0
ring access
	format raw
	maxlen 1200
	size 1048576
defaults
	mode http
	log global
	option httplog
	timeout connect 10s
	timeout client 75s
	timeout server 60s
frontend tls
	bind 127.0.0.1:TLSPORT ssl crt BOTH alpn h2,http/1.1
	option forwardfor
	http-request set-header X-Forwarded-Proto https
	http-response set-header Strict-Transport-Security "max-age=31536000"
	default_backend app
backend app
	http-reuse always
	server app 127.0.0.1:APPPORT
`

// reverseProxy builds and starts what Go's standard library has for the job, and nothing else.
func (p *peers) reverseProxy() (*peer, error) {
	const name = "ReverseProxy"
	ports, err := freePorts("TLS")
	if err != nil {
		return nil, err
	}
	program := filepath.Join(p.dir, "proxy")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the plain proxy does not build: %w\n%s", err, out)
	}
	cmd, err := p.start(name, nil, program, "127.0.0.1:"+ports["TLS"], "http://127.0.0.1:"+p.app, filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	return p.serves(name, ports["TLS"], cmd)
}

// end ends all of them.
func (p *peers) end() {
	for _, cmd := range p.cmds {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it was told to end
	}
}

// certificate writes one of the kind that the installation's authority issues.
func certificate(dir, host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	return errors.Join(err,
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600))
}

// family is a process and its children.
func family(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	out := []int{pid}
	for _, f := range strings.Fields(string(text)) {
		child, cerr := strconv.Atoi(f)
		out, err = append(out, child), errors.Join(err, cerr)
	}
	return out, err
}

// pss is the memory of processes in MB; a page that is shared counts in parts.
func pss(pids ...int) (float64, error) {
	sum := 0.0
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return 0, err
		}
		for l := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(l, "Pss:"); ok {
				kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					return 0, err
				}
				sum += kb / 1000
			}
		}
	}
	return sum, nil
}

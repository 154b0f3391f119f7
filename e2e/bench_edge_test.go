//go:build bench

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// benchEdge measures the processor time that the edge takes for a request, beside nginx with a certificate of the same
// kind and the same program behind it, and how long a change of the table takes when there are many hosts.
func benchEdge(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-edge"
	if err := p.image(app, "1"); err != nil {
		return err
	}
	if *benchPeer == "" {
		return errors.New("there is no nginx to measure beside; make bench brings it (-nginx)")
	}
	n, err := newNginx(b.work, app+"."+domain)
	if err != nil {
		return err
	}
	defer n.stop()
	edge, err := b.on.pid("edge")
	if err != nil {
		return err
	}
	dial, err := b.on.pid("dial")
	if err != nil {
		return err
	}
	const requests = 20_000
	for _, kind := range []struct {
		name string
		args []string
		most float64
	}{{"h1", []string{"--h1", "-c", "16"}, 3.0}, {"h2", []string{"-c", "4", "-m", "8"}, 4.1}} {
		var cpu, rps [2][]float64
		for round := range *benchRuns + 1 {
			for i, at := range []struct {
				port string
				pids []int
			}{{b.on.ports["HTTPS"], []int{edge, dial}}, {n.port, n.pids}} {
				before, err := processorTime(at.pids)
				if err != nil {
					return err
				}
				speed, err := h2load(app+"."+domain, at.port, requests, kind.args...)
				if err != nil {
					return err
				}
				after, err := processorTime(at.pids)
				if err != nil {
					return err
				}
				if round > 0 { // the first warms up
					cpu[i] = append(cpu[i], float64(after-before)/float64(time.Microsecond)/requests)
					rps[i] = append(rps[i], speed)
				}
			}
		}
		how := fmt.Sprintf("user and system time of the processes (this machine counts no instructions), `h2load %s`, %d requests for 1 KiB, TLS 1.3, by turns", strings.Join(kind.args, " "), requests)
		b.add(result{Name: "processor time a request, HTTPS " + kind.name, Unit: "µs", Ours: digested(cpu[0]...), Peer: digested(cpu[1]...), Whom: "nginx", How: how}, &goal{most: kind.most, ratio: true})
		b.add(result{Name: "requests a second, HTTPS " + kind.name, Unit: "1/s", Ours: digested(rps[0]...), Peer: digested(rps[1]...), Whom: "nginx", How: "the same runs; the load shares the processors"}, nil)
	}
	if err := b.on.frozen("server", func() error { return benchTable(b, bulwark.HostName(app+"."+domain)) }); err != nil {
		return err
	}
	_, err = p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app)
	return err
}

// benchTable changes the table of the edge that serves, with 10,000 hosts in it. The server stands still meanwhile; it
// puts its own table back afterwards.
func benchTable(b *bench, host bulwark.HostName) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	control := edgecontrol.New(b.on.inst.Socket(install.EdgeControl))
	table, err := control.Table(ctx)
	if err != nil {
		return err
	}
	id, ok := table.Routes[host]
	if !ok {
		return fmt.Errorf("the edge does not know %s", host)
	}
	const hosts = 10_000
	var other bulwark.AppID
	for i := range hosts {
		if i%10 == 0 {
			other = bulwark.NewAppID()
			table.Apps[other] = bulwark.Upstream{Name: bulwark.AppName("other-" + strconv.Itoa(i)), Instances: []bulwark.InstanceID{bulwark.NewInstanceID()}}
		}
		table.Routes[bulwark.HostName("host-"+strconv.Itoa(i)+".example.org")] = other
	}
	put, err := times(*benchRuns, func() error {
		table.Generation++
		return control.PutTable(ctx, table)
	})
	if err != nil {
		return err
	}
	c, err := b.on.client(false)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	var patch []float64
	for range *benchRuns * 4 {
		for _, set := range []bool{false, true} { // the app's route goes, and comes back
			p := bulwark.TablePatch{BaseGeneration: table.Generation, Generation: table.Generation + 1, DeleteRoutes: []bulwark.HostName{host}}
			want := http.StatusNotFound
			if set {
				p.DeleteRoutes, p.SetRoutes, want = nil, map[bulwark.HostName]bulwark.AppID{host: id}, http.StatusOK
			}
			began := time.Now()
			if err := control.PatchTable(ctx, p); err != nil {
				return err
			}
			patch = append(patch, ms(time.Since(began)))
			table.Generation++
			res, err := c.Get(fmt.Sprintf("https://%s:%s/", host, b.on.ports["HTTPS"]))
			if err != nil {
				return err
			}
			res.Body.Close()
			if res.StatusCode != want {
				return fmt.Errorf("after a change of the table the answer is %s, not %d", res.Status, want)
			}
		}
	}
	b.add(result{Name: "one route changed among 10,000 hosts", Unit: "ms", Ours: digested(patch...), How: "PATCH of the running edge's table over its socket; the next request is served by the new one"}, &goal{most: 10})
	b.add(result{Name: "the whole table of 10,000 hosts put anew", Unit: "ms", Ours: digested(put...), How: "PUT, as the server does"}, nil)
	return nil
}

// nginx is a running one with the stories' app behind it.
type nginx struct {
	port     string
	pids     []int
	cmd, app *exec.Cmd
}

func newNginx(work, host string) (*nginx, error) {
	dir := filepath.Join(work, "nginx")
	ports, err := freePorts("TLS", "APP")
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(dir, "tmp"), 0o755), certificate(dir, host))
	}
	if err != nil {
		return nil, err
	}
	conf := strings.NewReplacer("DIR", dir, "HOST", host, "TLSPORT", ports["TLS"], "APPPORT", ports["APP"]).Replace(nginxConf)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644); err != nil {
		return nil, err
	}
	n := &nginx{port: ports["TLS"], app: exec.Command(with.probe, "serve"), cmd: exec.Command(*benchPeer, "-c", filepath.Join(dir, "nginx.conf"), "-p", dir, "-e", filepath.Join(dir, "error.log"))}
	n.app.Env = []string{"PORT=" + ports["APP"]}
	for _, cmd := range []*exec.Cmd{n.app, n.cmd} {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(err, n.stop())
		}
	}
	err = poll(10*time.Second, func() error {
		_, err := h2load(host, n.port, 10, "--h1", "-c", "1")
		return err
	})
	if err == nil {
		n.pids, err = family(n.cmd.Process.Pid)
	}
	if err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "error.log"))
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, text), n.stop())
	}
	return n, nil
}

// nginxConf is nginx as it is set up for this job: connections to the app are kept, requests are logged in portions, and the cipher is the one that
// our edge chooses.
const nginxConf = `daemon off;
user nobody nogroup;
worker_processes auto;
pid DIR/nginx.pid;
error_log DIR/error.log;
events { worker_connections 1024; }
http {
	access_log DIR/access.log combined buffer=64k;
	client_body_temp_path DIR/tmp/body; proxy_temp_path DIR/tmp/proxy; fastcgi_temp_path DIR/tmp/fastcgi; uwsgi_temp_path DIR/tmp/uwsgi; scgi_temp_path DIR/tmp/scgi;
	keepalive_requests 10000000;
	upstream app { server 127.0.0.1:APPPORT; keepalive 64; keepalive_requests 10000000; }
	server {
		listen 127.0.0.1:TLSPORT ssl http2;
		server_name HOST;
		ssl_certificate DIR/cert.pem;
		ssl_certificate_key DIR/key.pem;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
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

func (n *nginx) stop() error {
	for _, cmd := range []*exec.Cmd{n.cmd, n.app} {
		if cmd.Process != nil {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	}
	return nil
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
	if len(out) == 1 {
		err = errors.Join(err, fmt.Errorf("process %d has no child", pid))
	}
	return out, err
}

// processorTime is the user and system time of processes.
func processorTime(pids []int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux of today
	var sum time.Duration
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, s := range f[11:13] {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

var (
	loadSpeed = regexp.MustCompile(`finished in [^,]*, ([0-9.]+) req/s`)
	loadGood  = regexp.MustCompile(`status codes: (\d+) 2xx`)
)

// h2load makes requests and returns how many were answered a second; that one failed is an error.
func h2load(host, port string, requests int, args ...string) (float64, error) {
	args = append(args, "-t", "1", "-n", strconv.Itoa(requests), "--connect-to=127.0.0.1:"+port, "https://"+host+":"+port+"/kilobyte")
	out, err := exec.Command("h2load", args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("h2load %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	good, speed := loadGood.FindSubmatch(out), loadSpeed.FindSubmatch(out)
	if good == nil || speed == nil || string(good[1]) != strconv.Itoa(requests) {
		return 0, fmt.Errorf("h2load %s: not every request was answered\n%s", strings.Join(args, " "), out)
	}
	return strconv.ParseFloat(string(speed[1]), 64)
}

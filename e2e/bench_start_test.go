//go:build bench

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// benchStart measures an instance's start, from the node's verb to the moment in which the instance accepts, beside
// `runc run` of the very bundle that the engine was given.
func benchStart(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-start"
	if err := p.image(app, "1"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	all, err := b.on.instances(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(i nodeapi.Instance) bool { return i.Process == web })
	if at < 0 {
		return fmt.Errorf("the node knows no instance of %s", app)
	}
	var release nodeapi.Released
	if err := b.on.node().Call(ctx, "bundle", nodeapi.Promote{App: all[at].App, Generation: all[at].Generation}, &release); err != nil {
		return err
	}
	bundle, err := b.on.ociBundle(all[at].Instance)
	if err != nil {
		return err
	}
	var ours, raw []float64
	err = b.on.frozen("server", func() error { // it would end what it did not ask for
		for n := range *benchRuns*3 + 2 {
			took, err := startOurs(ctx, b.on, release)
			if err != nil {
				return err
			}
			again, err := startRaw(b.work, bundle, n)
			if err != nil {
				return err
			}
			if n >= 2 {
				ours, raw = append(ours, took), append(raw, again)
			}
		}
		return nil
	})
	b.add(result{Name: "verb to accepting", Unit: "ms", Ours: digested(ours...), Peer: digested(raw...), Whom: "`runc run -d` to listening",
		How: "the node's verb start until it tells that the instance is healthy; config.json as the engine got it, with runc alone, until its port listens"},
		&goal{most: 2.5, ratio: true})
	_, derr := p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app)
	return errors.Join(err, derr)
}

// startOurs starts an instance by the node's verb, waits until the node says that it is healthy, and ends it.
func startOurs(ctx context.Context, on *installation, release nodeapi.Released) (float64, error) {
	id := bulwark.NewInstanceID()
	node := on.node()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	healthy, listening := make(chan error, 1), make(chan struct{}, 1)
	found := errors.New("found")
	go func() {
		healthy <- nodeapi.Stream(ctx, node, "events", struct{}{}, func(all []nodeapi.Instance) error {
			select {
			case listening <- struct{}{}:
			default:
			}
			for _, i := range all {
				if i.Instance == id && i.Phase == nodeapi.PhaseHealthy {
					return found
				}
				if i.Instance == id && i.Phase.Over() {
					return fmt.Errorf("the instance is %s: %s", i.Phase, i.Reason)
				}
			}
			return nil
		})
	}()
	<-listening
	began := time.Now()
	if err := node.Call(ctx, "start", nodeapi.Start{Bundle: release.Bundle, Instance: id, Process: web, Index: 9}, nil); err != nil {
		return 0, err
	}
	err := <-healthy
	took := ms(time.Since(began))
	if !errors.Is(err, found) {
		return 0, fmt.Errorf("the instance did not become healthy: %w", err)
	}
	return took, node.Call(ctx, "stop", nodeapi.Stop{Instance: id, Grace: bulwark.Duration(5 * time.Second)}, nil)
}

// ociBundle reads the spec that the engine was given for an instance.
func (i *installation) ociBundle(id bulwark.InstanceID) (*specs.Spec, error) {
	for _, pattern := range []string{"*/*/*/*/config.json", "*/*/*/*/*/config.json", "*/*/*/*/*/*/config.json"} {
		found, err := filepath.Glob(filepath.Join(i.root, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if filepath.Base(filepath.Dir(f)) != string(id) {
				continue
			}
			text, err := os.ReadFile(f)
			spec := &specs.Spec{}
			return spec, errors.Join(err, json.Unmarshal(text, spec))
		}
	}
	return nil, fmt.Errorf("there is no bundle of %s below %s", id, i.root)
}

// startRaw has runc run the same bundle, with a config socket of ours in the place of the node's, and returns when the
// app's port listens.
func startRaw(work string, spec *specs.Spec, n int) (float64, error) {
	dir, err := os.MkdirTemp(tempDir, "bench-runc-") // short, for the socket's path
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	id := fmt.Sprintf("bench-%d-%d", os.Getpid(), n)
	mine := *spec
	linux := *spec.Linux
	mine.Linux, linux.CgroupsPath = &linux, filepath.Join(filepath.Dir(linux.CgroupsPath), id)
	mine.Mounts = slices.Clone(spec.Mounts)
	socket := filepath.Join(dir, "socket")
	for i := range mine.Mounts {
		if mine.Mounts[i].Destination == "/.bulwark/socket" {
			mine.Mounts[i].Source = socket
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			fmt.Fprintf(c, `{"PORT":"8080"}`)
			c.Close()
		}
	}()
	text, err := json.Marshal(mine)
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.Chmod(socket, 0o666), os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)); err != nil {
		return 0, err
	}
	runc := func(args ...string) error {
		var text bytes.Buffer
		cmd := exec.Command(filepath.Join(with.engine, "runc"), append([]string{"--root", filepath.Join(work, "runc")}, args...)...)
		log, err := os.Create(filepath.Join(dir, "log")) // a pipe would stay open as long as the app runs
		if err != nil {
			return err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			b, _ := os.ReadFile(log.Name())
			return fmt.Errorf("runc %s: %w\n%s%s", strings.Join(args, " "), err, text.String(), b)
		}
		return nil
	}
	pidFile := filepath.Join(dir, "pid")
	began := time.Now()
	if err := runc("run", "-d", "--bundle", dir, "--pid-file", pidFile, id); err != nil {
		return 0, err
	}
	pid, err := os.ReadFile(pidFile)
	for err == nil {
		tcp, rerr := os.ReadFile("/proc/" + string(pid) + "/net/tcp6")
		if err = rerr; bytes.Contains(tcp, []byte(":1F90 00000000000000000000000000000000:0000 0A ")) { // port 8080, LISTEN
			break
		}
		if time.Since(began) > 30*time.Second {
			err = fmt.Errorf("the app does not listen:\n%s", tcp)
		}
		time.Sleep(time.Millisecond)
	}
	took := ms(time.Since(began))
	return took, errors.Join(err, runc("delete", "--force", id))
}

// benchMemory measures what all processes of the platform take, by PSS: each page counts in parts to those who share it.
func benchMemory(b *bench) error {
	settled := 20 * time.Second
	time.Sleep(settled)
	rest, err := b.on.memory()
	if err != nil {
		return err
	}
	b.add(result{Name: "at rest, no app: all processes", Unit: "MB", Ours: digested(rest.total()), How: fmt.Sprintf("Pss of /proc/PID/smaps_rollup, %d s after the start", int(settled.Seconds()))},
		&goal{most: 150})
	for _, name := range rest.names() {
		b.add(result{Name: "at rest: " + name, Unit: "MB", Ours: digested(rest[name]), How: "the same"}, nil)
	}
	p, err := b.person()
	if err != nil {
		return err
	}
	const app, many = "bench-memory", 11
	if err := p.image(app, "1"); err != nil {
		return err
	}
	scale := func(n int) (memory, error) {
		if _, err := p.run("", "bulwark", "ps", "scale", "web="+strconv.Itoa(n), "--app", app); err != nil {
			return nil, err
		}
		err := poll(time.Minute, func() error {
			all, err := b.on.instances(context.Background())
			healthy := 0
			for _, i := range all {
				if i.Phase == nodeapi.PhaseHealthy {
					healthy++
				}
			}
			if err == nil && (healthy != n || len(all) != n) {
				err = fmt.Errorf("%d of %d instances are healthy", healthy, n)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		time.Sleep(10 * time.Second)
		return b.on.memory()
	}
	one, err := scale(1)
	if err != nil {
		return err
	}
	more, err := scale(many)
	if err != nil {
		return err
	}
	per := (more.total() - more["app"] - one.total() + one["app"]) / (many - 1)
	b.add(result{Name: "per idle instance, without the app's own", Unit: "MB", Ours: digested(per), How: fmt.Sprintf("(PSS with %d instances − PSS with 1) / %d, the app's own processes left out", many, many-1)}, &goal{most: 10})
	b.add(result{Name: "the app's own (a small Go server)", Unit: "MB", Ours: digested(more["app"] / many), How: "the same"}, nil)
	for _, name := range more.names() {
		if name != "app" && more[name]-one[name] > 0.5 {
			b.add(result{Name: fmt.Sprintf("%d more instances add to %s", many-1, name), Unit: "MB", Ours: digested(more[name] - one[name]), How: "the same"}, nil)
		}
	}
	_, err = p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app)
	return err
}

// memory is the PSS in MB by process.
type memory map[string]float64

func (m memory) total() float64 {
	sum := 0.0
	for _, v := range m {
		sum += v
	}
	return sum
}

func (m memory) names() []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.SortFunc(out, func(a, b string) int { return int(1000 * (m[b] - m[a])) })
	return out
}

// memory looks at every process of the installation.
func (i *installation) memory() (memory, error) {
	names := map[int]string{}
	all, err := i.status()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		names[p.PID] = p.Name
	}
	out := memory{}
	for _, line := range i.processes() {
		text, args, _ := strings.Cut(line, " ")
		pid, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		name := names[pid]
		st, serr := os.Stat("/proc/" + text)
		rollup, rerr := os.ReadFile("/proc/" + text + "/smaps_rollup")
		if errors.Is(rerr, syscall.ESRCH) || os.IsNotExist(serr) || os.IsNotExist(rerr) {
			continue // it has ended
		}
		if err := errors.Join(serr, rerr); err != nil {
			return nil, err
		}
		uid := st.Sys().(*syscall.Stat_t).Uid
		switch {
		case name != "":
		case strings.Contains(args, "containerd-shim"):
			name = "shim"
		case uid >= i.inst.IDs.Base+1<<16:
			name = "app"
		case strings.Contains(args, " up "):
			name = "supervisor"
		default:
			name = filepath.Base(strings.Fields(args)[0])
		}
		for l := range strings.Lines(string(rollup)) {
			if rest, ok := strings.CutPrefix(l, "Pss:"); ok {
				kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					return nil, err
				}
				out[name] += kb / 1000
			}
		}
	}
	return out, nil
}

package posture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

func iso3() Control {
	return Control{ID: "ISO-3", Version: 1, Every: daily,
		Promise: "An app that asks for a sandbox does not reach the host's kernel.",
		Tries: "Runs the attack kit in an instance with isolation = \"sandbox\", and looks which kernel it sees. Looks from outside which program all " +
			"processes of such instances are, and what they may do.",
		Probe: probeISO3}
}

func probeISO3(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Sandboxed(ctx, w.Scratch)
	if err != nil {
		return err
	}
	// It takes memory while it runs, and nobody asks for it until the next time.
	defer func() { _, _ = w.Person.Do(context.WithoutCancel(ctx), "ps", "scale", "web=0", "--app", app) }()
	if err := w.everySandbox(ctx, r); err != nil {
		return err
	}
	inside, err := report(w.Person.InModel(ctx, app, "isolation", "--calls", "false"))
	if err != nil {
		return fmt.Errorf("in a sandbox: %w", err)
	}
	outside, err := report(w.plain(ctx, "isolation", "--calls", "false"))
	if err != nil {
		return fmt.Errorf("on the plain twin: %w", err)
	}
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	kernel := strings.TrimSpace(string(host))
	r.Refused("see the host's kernel", inside.Facts["kernel"] != "" && inside.Facts["kernel"] != kernel, "it sees "+inside.Facts["kernel"])
	r.Proven("the kit sees the host's kernel on the plain twin", outside.Facts["kernel"] == kernel, outside.Facts["kernel"])
	came := map[string]bool{}
	for _, a := range outside.Attempts {
		came[a.Name] = a.Reached
	}
	seen := 0
	for _, a := range inside.Attempts {
		if came[a.Name] {
			seen++
		}
		if a.Untried || a.Reached && (sandboxOwn[a.Name] || w.tolerated(a.Name)) {
			continue
		}
		r.Refused(strings.TrimSpace(a.Name+" "+a.Shape), !a.Reached, a.Detail)
	}
	r.Proven("the kit's attacks come through on a plain twin", seen >= 20, fmt.Sprintf("%d of %d", seen, len(inside.Attempts)))
	return nil
}

// sandboxOwn are attacks that reach the sandbox's own kernel, which is the app's alone, and end there.
var sandboxOwn = map[string]bool{
	"lower the own oom_score_adj":          true, // a number that its kernel keeps and does not use
	"be a user of the host's":              true, // its kernel has one user namespace, and calls it the first
	"devices on a writable mount":          true, // of its own devices
	"find a device that no instance needs": true, // of its own: /dev/fuse and /dev/net/tun are made up
}

// everySandbox looks from outside at all sandboxes that run now.
func (w *World) everySandbox(ctx context.Context, r *Record) error {
	all, err := w.instances(ctx)
	if err != nil {
		return err
	}
	sandboxes, others := 0, 0
	for _, i := range all {
		strange := 0
		for _, pid := range i.pids {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			if err == nil && strings.TrimSuffix(exe, " (deleted)") != filepath.Join(w.Installation.EngineBin, "runsc") {
				strange++
			}
		}
		if i.Isolation != bulwark.IsolationSandbox {
			others += strange
			continue
		}
		sandboxes++
		r.Refused("run a program of the app's on the host's kernel", strange == 0, fmt.Sprintf("%s: %d of %d processes", i.Instance.Instance, strange, len(i.pids)))
		for _, pid := range i.pids {
			for _, d := range confined(pid, w.Installation.IDs, i.Isolation) {
				r.Refused(d.what, false, d.detail)
			}
		}
	}
	r.Proven("a sandbox runs", sandboxes > 0, fmt.Sprintf("%d", sandboxes))
	r.Proven("programs of other apps are seen on the host's kernel", others > 0, fmt.Sprintf("%d processes", others))
	return nil
}

// Sandboxed returns the name of a model app that asks for a sandbox, deployed and serving.
func (p *Person) Sandboxed(ctx context.Context, scratch string) (string, error) {
	if _, err := p.Model(ctx, scratch); err != nil { // others are compared with it
		return "", err
	}
	m, err := p.model()
	if err != nil {
		return "", err
	}
	if _, err := p.made(ctx, &m.Sandboxed); err != nil {
		return "", err
	}
	kit, err := os.ReadFile(p.kit)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(kit)
	digest := m.Sandboxed + " " + hex.EncodeToString(sum[:])
	if digest == m.Kit {
		if _, err := p.Do(ctx, "ps", "scale", "web=1", "--app", m.Sandboxed); err == nil {
			return m.Sandboxed, p.healthy(ctx, m.Sandboxed)
		}
	}
	if err := p.keep(m); err != nil {
		return "", err
	}
	dir := filepath.Join(scratch, "sandboxed")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for name, text := range map[string]string{"kit": string(kit), "Dockerfile": "FROM bulwark/static\nCOPY --chmod=0755 kit /kit\n",
		"Procfile": "web: /kit serve\n", "bulwark.toml": "isolation = \"sandbox\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return "", err
		}
	}
	if _, err := p.Do(ctx, "deploy", dir, "--app", m.Sandboxed, "--message", "bulwark posture"); err != nil {
		return "", err
	}
	m.Kit = digest
	if err := p.keep(m); err != nil {
		return "", err
	}
	if _, err := p.Do(ctx, "ps", "scale", "web=1", "--app", m.Sandboxed); err != nil {
		return "", err
	}
	return m.Sandboxed, p.healthy(ctx, m.Sandboxed)
}

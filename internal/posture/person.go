package posture

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// Person is the prober as one of the installation's people: it owns an organisation of its own and nothing else, and does what
// people do with the program that people have. So what a probe sees is what a tenant sees, down to the audit log.
type Person struct {
	bulwark, kit, home, api, cert string
	node                          *nodeapi.Client
}

// maxOutput bounds what is read of a program's output.
const maxOutput = 4 << 20

// Do runs bulwark with a command line and returns what it printed. The error has the end of what it said.
func (p *Person) Do(ctx context.Context, args ...string) ([]byte, error) {
	return p.do(ctx, nil, args...)
}

func (p *Person) do(ctx context.Context, env []string, args ...string) ([]byte, error) {
	out := &bounded{left: maxOutput}
	e := append([]string{"HOME=" + p.home, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "NO_COLOR=1", "GIT_CONFIG_NOSYSTEM=1"}, env...)
	if p.cert != "" {
		e = append(e, "SSL_CERT_FILE="+p.cert)
	}
	err := process.Run(ctx, process.Cmd{Path: p.bulwark, Args: args, Env: e, Dir: p.home, Stdout: out})
	return out.b.Bytes(), err
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	b    bytes.Buffer
	left int
}

// Write implements [io.Writer].
func (w *bounded) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	w.b.Write(b[:n])
	return len(b), nil
}

var _ io.Writer = (*bounded)(nil)

// SignIn makes sure that the prober is signed in.
func (p *Person) SignIn(ctx context.Context) error {
	if err := os.MkdirAll(p.home, 0o700); err != nil {
		return err
	}
	if _, err := p.Do(ctx, "whoami", "--json"); err == nil {
		return nil
	}
	var token map[string]string
	if err := p.node.Call(ctx, "token", nodeapi.LoginToken{Prober: true}, &token); err != nil {
		return fmt.Errorf("no token to sign in with: %w", err)
	}
	// In the environment, not among the arguments: only root can read that.
	_, err := p.do(ctx, []string{"BULWARK_TOKEN=" + token["token"]}, "login", p.api, "--name", "bulwark posture", "--again")
	return err
}

// model is what is kept of the prober's app.
type model struct {
	App string `json:"app"`
	// Mark is in a file of its image, and nowhere else on the machine's disk.
	Mark string `json:"mark,omitempty"`
	// Sandboxed is the one that asks for a sandbox, and Kit the digest of the kit in it.
	Sandboxed string `json:"sandboxed,omitempty"`
	Kit       string `json:"kit,omitempty"`
}

// modelDockerfile builds the kit into an image, and runs it on the way: what it reaches there is in the image.
const modelDockerfile = `FROM bulwark/static
COPY --chmod=0755 kit /kit
COPY --chmod=0644 mark /mark
RUN %s
`

// Deploy builds the model app anew, with arguments for the kit that runs as a step of the build, and has its web process run.
func (p *Person) Deploy(ctx context.Context, scratch string, build ...string) (app string, err error) {
	if app, err = p.app(ctx); err != nil {
		return "", err
	}
	dir := filepath.Join(scratch, "model")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	kit, err := os.ReadFile(p.kit)
	if err != nil {
		return "", err
	}
	step, err := json.Marshal(append([]string{"/kit", "build", "--out", "/report.json"}, build...))
	if err != nil {
		return "", err
	}
	mark := "mark-" + randomHex(16)
	for name, f := range map[string]struct {
		text string
		mode fs.FileMode
	}{"kit": {string(kit), 0o755}, "Dockerfile": {fmt.Sprintf(modelDockerfile, step), 0o644}, "Procfile": {"web: /kit serve\n", 0o644}, "mark": {mark + "\n", 0o644}} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.text), f.mode); err != nil {
			return "", err
		}
	}
	if _, err := p.Do(ctx, "deploy", dir, "--app", app, "--message", "bulwark posture"); err != nil {
		return "", err
	}
	m, err := p.model()
	if err != nil {
		return "", err
	}
	m.Mark = mark
	return app, p.keep(m)
}

// app returns the name of the model app, which is made if it is not there.
func (p *Person) app(ctx context.Context) (string, error) {
	if err := p.SignIn(ctx); err != nil {
		return "", fmt.Errorf("the prober cannot sign in: %w", err)
	}
	m, err := p.model()
	if err != nil {
		return "", err
	}
	if made, err := p.made(ctx, &m.App); !made {
		return m.App, err
	}
	return m.App, p.keep(m)
}

// made makes an app unless there is one of that name, and tells whether it did.
func (p *Person) made(ctx context.Context, name *string) (bool, error) {
	if *name != "" {
		if _, err := p.Do(ctx, "apps", "info", *name, "--json"); err == nil {
			return false, nil
		}
	}
	*name = "posture-" + randomHex(5)
	if _, err := p.Do(ctx, "apps", "create", *name); err != nil {
		return false, fmt.Errorf("the model app cannot be made: %w", err)
	}
	return true, nil
}

func (p *Person) modelFile() string { return filepath.Join(filepath.Dir(p.home), "model.json") }

func (p *Person) model() (m model, err error) {
	b, err := os.ReadFile(p.modelFile())
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

func (p *Person) keep(m model) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(p.modelFile(), b, 0o600)
}

// mark is what the model's layer has and nothing else on the machine.
func (p *Person) mark() string {
	m, err := p.model()
	if err != nil || m.Mark == "" {
		return "no mark is known"
	}
	return m.Mark
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// Model returns the name of the model app, deployed and serving.
func (p *Person) Model(ctx context.Context, scratch string) (string, error) {
	app, err := p.app(ctx)
	if err != nil {
		return "", err
	}
	out, err := p.Do(ctx, "releases", "--app", app, "--json")
	if err == nil && bytes.Contains(out, []byte(`"promoted"`)) {
		var procs []struct {
			State string `json:"state"`
		}
		if out, err = p.Do(ctx, "ps", "--app", app, "--json"); err == nil && json.Unmarshal(out, &procs) == nil {
			for _, i := range procs {
				if i.State == "healthy" {
					return app, nil
				}
			}
		}
		if _, err := p.Do(ctx, "ps", "scale", "web=1", "--app", app); err != nil {
			return "", err
		}
		if err := p.healthy(ctx, app); err == nil {
			return app, nil
		}
		// Its image may be spoilt: a probe that spoils it was killed before it put it right.
	}
	return p.Deploy(ctx, scratch)
}

// healthy waits until the model app serves.
func (p *Person) healthy(ctx context.Context, app string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		out, err := p.Do(ctx, "ps", "--app", app, "--json")
		if err == nil && bytes.Contains(out, []byte(`"healthy"`)) {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return errors.Join(errors.New("the model app does not come up"), err)
		}
	}
}

// InModel runs the kit in an instance of the model app of its own, and returns what it printed.
func (p *Person) InModel(ctx context.Context, app string, args ...string) ([]byte, error) {
	return p.Do(ctx, append([]string{"run", "--no-tty", "--app", app, "--", "/kit"}, args...)...)
}

// secret sets a config variable from a file, so that its value is in no argument.
func (p *Person) secret(ctx context.Context, scratch, app, name, value string) error {
	path := filepath.Join(scratch, "value")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		return err
	}
	_, err := p.Do(ctx, "config", "set", name+"=@"+path, "--app", app)
	return errors.Join(err, os.Remove(path))
}

// disguise writes a marker so that it is in none of the forms in which it is searched for: who looks for it must not find
// what it was told to look for.
func disguise(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] ^= 0x55
	}
	return hex.EncodeToString(b)
}

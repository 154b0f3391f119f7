package buildertest_test

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
)

// These are builds of an app whose author is the attacker.

// TestLogFlood prints 100 MB: the log is cut, the build goes on.
func TestLogFlood(t *testing.T) {
	app := newApp(t)
	src := files(t, map[string]string{"Dockerfile": "FROM bulwark/run\nRUN head -c 75000000 /dev/urandom | base64 -w 100\nCMD [\"true\"]\n"})
	out := built(t, app, buildertest.Build{Source: src})
	if len(out.Stdout) > 14<<20 {
		t.Errorf("the builder printed %d bytes", len(out.Stdout))
	}
	if log := out.Log(); len(log) > 11<<20 {
		t.Errorf("the log has %d bytes", len(log))
	} else {
		contains(t, log[len(log)-200:], "The log is longer than 10 MB")
	}
	src = files(t, map[string]string{"Dockerfile": "FROM bulwark/run\nRUN printf 'x%.0s' $(seq 1 100000); echo; printf '\\033[31mred\\033]0;title\\007\\001\\n'\nCMD [\"true\"]\n"})
	out = built(t, app, buildertest.Build{Source: src})
	contains(t, out.Log(), "       red\n")
	for _, e := range out.Events {
		if len(e.Log) > 4<<10 {
			t.Errorf("a line of %d bytes", len(e.Log))
		}
	}
}

// TestSecrets has a step print a secret in every way that a log takes, and looks for it in everything that stays.
func TestSecrets(t *testing.T) {
	app := newApp(t)
	const value = "s3cr3t-value-of-the-app"
	src := files(t, map[string]string{
		"package.json": `{"scripts":{"build":"node build.js","start":"node a.js"}}`, "package-lock.json": `{"lockfileVersion":3,"packages":{}}`, "a.js": "",
		"build.js":     "console.log('a' + process.env.API_KEY + 'b'); console.log('x'.repeat(4070) + process.env.API_KEY); console.error(Object.keys(process.env).join())",
		"bulwark.toml": "build.secrets = [\"API_KEY\"]\n",
	})
	out := built(t, app, buildertest.Build{Source: src, Secrets: map[string]string{"API_KEY": value, "OTHER": "another-secret"}})
	contains(t, out.Log(), "a[secret]b")
	containsNot(t, out.Log(), "OTHER")
	containsNot(t, out.Stdout+out.Stderr, value[:8])
	for _, dir := range []string{app.Output, app.State} {
		filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			// The large ones are the bases' layers; what a build writes here is small.
			if fi, err := d.Info(); err == nil && fi.Size() < 8<<20 {
				if b, _ := os.ReadFile(file); strings.Contains(string(b), value) || strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte(value))) {
					t.Errorf("%s holds the secret", file)
				}
			}
			return nil
		})
	}
}

// TestNetwork tries every way out.
func TestNetwork(t *testing.T) {
	app := newApp(t)
	src := files(t, map[string]string{"Dockerfile": `FROM bulwark/python
RUN <<'EOF' python3
import os, socket, urllib.request
def attempt(name, f):
    try:
        print(name, "WORKED", f())
    except Exception as e:
        print(name, "failed:", type(e).__name__, e)
attempt("direct", lambda: socket.create_connection(("1.1.1.1", 443), 3))
attempt("dns", lambda: socket.getaddrinfo("example.org", 443))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 3))
attempt("unlisted", lambda: urllib.request.urlopen("https://example.org/", timeout=5))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
print("interfaces", [n for _, n in socket.if_nameindex()])
EOF
CMD ["true"]
`})
	out := built(t, app, buildertest.Build{Source: src})
	t.Log(out.Log())
	containsNot(t, out.Log(), "WORKED")
	contains(t, out.Log(), "interfaces ['lo']")
	if !slices.Contains(out.Denied, "example.org:443") {
		t.Errorf("the proxy refused %v", out.Denied)
	}
}

// TestWalls tries from a build step what only the host's root may do, and what nobody may.
func TestWalls(t *testing.T) {
	app := newApp(t)
	src := files(t, map[string]string{"Dockerfile": `FROM bulwark/python
RUN <<'EOF' python3
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, nr, *args):
    r = libc.syscall(nr, *args)
    print(name, "WORKED" if r >= 0 else "failed: " + os.strerror(ctypes.get_errno()))
call("bpf", 321, 0, None, 0)
call("perf_event_open", 298, None, 0, -1, -1, 0)
call("io_uring_setup", 425, 1, None)
call("userfaultfd", 323, 0)
call("init_module", 175, None, 0, b"")
call("kexec_load", 246, 0, 0, None, 0)
call("open_by_handle_at", 304, -1, None, 0)
call("reboot", 169, 0, 0, 0, None)
call("mount", 165, b"none", b"/mnt", b"tmpfs", 0, None)
call("swapon", 167, b"/x", 0)
def write(path):
    try:
        os.write(os.open(path, os.O_WRONLY), b"1")
        print(path, "WORKED")
    except OSError as e:
        print(path, "failed:", e)
for p in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper", "/dev/kmsg"]:
    write(p)
try:
    os.mknod("/dev/sda", 0o60600, os.makedev(8, 0)); open("/dev/sda", "rb"); print("disk WORKED")
except OSError as e:
    print("disk failed:", e)
print("uid map", open("/proc/self/uid_map").read().split())
print("bulwark", os.path.exists("/run/bulwark"))
EOF
CMD ["true"]
`})
	out := built(t, app, buildertest.Build{Source: src})
	t.Log(out.Log())
	containsNot(t, out.Log(), "WORKED")
	contains(t, out.Log(), "uid map ['0', '1000000', '131072']")
	contains(t, out.Log(), "bulwark False")
}

// TestLinks points the files that are read at the builder's own.
func TestLinks(t *testing.T) {
	app := newApp(t)
	for _, name := range []string{"bulwark.toml", "Procfile", "package.json"} {
		src := files(t, map[string]string{"go.mod": "module example.com/x\n\ngo 1.25\n", "package-lock.json": "{}"})
		if name == "package.json" {
			os.Remove(src + "/go.mod")
			write(t, src+"/bulwark.toml", "build.planner = \"node\"\n")
		}
		if err := os.Symlink("/etc/passwd", filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
		out := failed(t, app, buildertest.Build{Source: src}, bulwark.KindInvalid, name+" cannot be read")
		containsNot(t, out.Stdout, "root:x")
	}
	// A link inside the copied source stays a link.
	src := files(t, map[string]string{"index.html": "x"})
	os.Symlink("/run/bulwark/ca.pem", src+"/ca.pem")
	os.Symlink("../../../../etc/passwd", src+"/passwd")
	out := built(t, app, buildertest.Build{Source: src})
	answers(t, app, out, "/passwd", "404")
}

// TestCancel ends a build that would never end, and shows that its state is good after.
func TestCancel(t *testing.T) {
	app := newApp(t)
	src := files(t, map[string]string{"Dockerfile": "FROM bulwark/run\nRUN echo started; while :; do sleep 1000; done\nCMD [\"true\"]\n"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked time.Time
	out, err := app.Run(ctx, buildertest.Build{Source: src, OnEvent: func(e bulwark.BuildEvent) {
		if strings.TrimSpace(e.Log) == "started" {
			asked = time.Now()
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if out.Code != 1 || out.Error == nil || out.Error.Kind != bulwark.KindCanceled {
		t.Fatalf("exit code %d, error %v\n%s", out.Code, out.Error, out.Stderr)
	}
	if took := time.Since(asked); asked.IsZero() || took > 8*time.Second {
		t.Errorf("it took %v to end", took)
	}
	write(t, src+"/Dockerfile", "FROM bulwark/run\nRUN echo fine\nCMD [\"true\"]\n")
	built(t, app, buildertest.Build{Source: src})
}

// TestBadInput gives the builder what a node never would.
func TestBadInput(t *testing.T) {
	app := newApp(t)
	out := run(t, app, buildertest.Build{Source: files(t, map[string]string{"README": "nothing"})})
	if out.Code != 1 || !strings.Contains(out.Error.Message, "cannot tell what language") {
		t.Errorf("exit code %d, error %v", out.Code, out.Error)
	}
	out = run(t, app, buildertest.Build{Source: files(t, map[string]string{"index.html": "x"}), Edit: func(j *bulwark.BuildSetup) { j.State = "" }})
	if out.Code != 2 || out.Error.Kind != bulwark.KindInternal || strings.Contains(out.Error.Message, "directory") {
		t.Errorf("exit code %d, error %v", out.Code, out.Error)
	}
	out = run(t, app, buildertest.Build{Source: files(t, map[string]string{"index.html": "x"}), Edit: func(j *bulwark.BuildSetup) { j.Bases = "/nowhere" }})
	if out.Code != 2 || out.Error.Kind != bulwark.KindUnavailable {
		t.Errorf("exit code %d, error %v", out.Code, out.Error)
	}
}

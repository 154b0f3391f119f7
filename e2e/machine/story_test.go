//go:build machine

package machine

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMachine is one machine's life, told in order: what a story leaves, the next one finds. The first that fails ends it.
func TestMachine(t *testing.T) {
	m := newMachine(t)
	m.boot()
	defer m.cut()
	if *begin != "" { // the release of now over that of the earlier run
		deb, _ := m.release()
		m.root("dpkg", "-i", deb)
		m.root("systemctl", "restart", "bulwark-main")
		m.ready()
	}
	begun := false
	for _, s := range []struct {
		name string
		tell func(m *machine)
	}{
		{"install", install}, {"deploy", deploy}, {"limits", limits}, {"kill", kill}, {"clock", clock}, {"starts", starts},
		{"power", power}, {"remove", remove},
	} {
		if *begin != "" && *begin != s.name && !begun {
			continue
		}
		begun = true
		if !t.Run(s.name, func(t *testing.T) { m.t = t; s.tell(m) }) {
			return
		}
	}
}

// release returns what the machine was given.
func (m *machine) release() (deb, bases string) {
	m.t.Helper()
	deb, bases, _ = strings.Cut(strings.TrimSpace(m.root("find", "/media", "-name", "*.deb", "-o", "-name", "*.tar")), "\n")
	if strings.HasSuffix(deb, ".tar") {
		deb, bases = bases, deb
	}
	return deb, bases
}

// install does what README says under "From the package".
func install(m *machine) {
	m.want(m.root("stat", "-f", "-c", "%T", "/sys/fs/cgroup"), "cgroup2fs")
	m.t.Log(m.root("uname", "-r"))
	deb, bases := m.release()
	if r := m.do(request{Dir: "/media", Args: []string{"sha256sum", "--check", "--ignore-missing", "SHA256SUMS"}}); r.Code != 0 {
		m.t.Fatal(r.Out, r.Err)
	}
	m.root("dpkg", "-i", deb)
	m.want(m.root("bulwark", "install"), "bulwark bases add FILE")
	m.want(m.root("bulwark", "bases", "add", bases), "installation main uses the base images")
	m.want(m.root("bulwark", "bases", "list"), "in use\n  builder  ")
	m.root("systemctl", "daemon-reload")
	m.root("systemctl", "enable", "--now", "bulwark-main")
	m.root("bulwark", "supervisor", "ready", "--wait", "60s")
	m.root("install", "-m", "0644", "/var/lib/bulwark/node/keys/ca.pem", "/usr/local/share/ca-certificates/bulwark-main.crt")
	m.root("update-ca-certificates")
	m.want(m.root("systemctl", "is-active", "bulwark-main"), "^active")
	m.t.Log(m.root("systemctl", "status", "--no-pager", "-n", "5", "bulwark-main"))
	if r := m.try("systemd-analyze", "verify", "bulwark-main.service"); r.Out+r.Err != "" {
		m.t.Errorf("systemd-analyze verify: %s%s", r.Out, r.Err)
	}
	analysis := m.root("systemd-analyze", "security", "--no-pager", "bulwark-main")
	m.t.Log(regexp.MustCompile(`(?m)^→.*$`).FindString(analysis))
}

var apps = map[string]map[string]string{
	"site": {"public/index.html": "site one\n"},
	"hello": {"go.mod": "module hello\n\ngo 1.26\n", "main.go": `package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello one", os.Getenv("BULWARK_RELEASE"), os.Getenv("GREETING"))
	})
	log.Print("listening")
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
`},
	"snake": {"Procfile": "web: python app.py\n", "app.py": `import http.server, os, subprocess, sys, time

class Snake(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = "snake one " + os.environ["BULWARK_RELEASE"] + "\n"
        if self.path == "/eat":
            food = []
            while True:
                food.append(bytearray(os.urandom(1 << 20)))
        if self.path == "/fork":
            children = 0
            try:
                while children < 10000:
                    if os.fork() == 0:
                        time.sleep(30)
                        os._exit(0)
                    children += 1
            except OSError as e:
                text = "stopped after %d: %s\n" % (children, e)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

print("listening", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Snake).serve_forever()
`, "bulwark.toml": "[[cron]]\nname = \"tick\"\nschedule = \"* * * * *\"\ncommand = \"python -c 'print(1)'\"\n"},
}

// deploy is what a person does on the first day.
func deploy(m *machine) {
	token := strings.TrimSpace(m.root("bulwark", "token"))
	m.t.Log(m.ada("", "bulwark", "login", "https://localhost:8443", "--token", token))
	for _, name := range []string{"site", "hello", "snake"} {
		if *begin != "" { // what the earlier run left
			m.tryAda("", "bulwark", "apps", "destroy", name, "--now", "--confirm", name)
			m.root("rm", "-rf", home(name))
		}
		for file, text := range apps[name] {
			m.write(name+"/"+file, text)
		}
		m.ada(name, "git", "init", "-q", "-b", "main")
		m.ada(name, "git", "add", ".")
		m.ada(name, "git", "commit", "-qm", "one")
		m.ada(name, "bulwark", "apps", "create", name)
		began := time.Now()
		m.want(m.ada(name, "git", "push", "bulwark", "main"), "Released v1")
		m.t.Logf("the first push of %s took %s", name, time.Since(began).Round(100*time.Millisecond))
		m.serves(name, name+" one")
	}
	m.want(m.ada("hello", "bulwark", "ps", "scale", "web=2"), "web=2")
	m.until(30*time.Second, "two instances of hello are healthy", func() bool {
		return strings.Count(m.ada("hello", "bulwark", "ps", "--json"), `"healthy"`) == 2
	})
	m.want(m.ada("hello", "bulwark", "ps"), `web\.2`)
	m.want(m.ada("snake", "bulwark", "run", "--", "python", "-c", "import os; print('once', os.getuid())"), "once 1000")
	m.want(m.ada("snake", "bulwark", "logs"), "listening")
	m.want(m.ada("hello", "bulwark", "config", "set", "GREETING=again"), "Released v2")
	m.serves("hello", "hello one v2 again")
	m.want(m.ada("hello", "bulwark", "rollback", "v1", "--config"), "Released v3")
	m.serves("hello", "hello one v3 \n")
	for name := range apps {
		m.want(m.ada(name, "bulwark", "verify"), "All of it holds")
	}
	m.t.Log(m.ada("", "bulwark", "status"))
}

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// The stories have these commands beside testscript's:
//
//	as PERSONA                       play on as another person, with a home, keys and nothing else
//	token, token done                the admin makes a login token: $BULWARK_TOKEN; it was used
//	login                            token, and the persona signs in with it
//	app KIND DIR [VERSION]           lay out the source of an app (testdata/apps) as a git repository, with one commit
//	release DIR VERSION              commit another version of it
//	deploy NAME KIND                 all of it: app, bulwark apps create, git push
//	https [-until D] [-status N] [-match RE] [-host H] METHOD APP PATH [BODY]
//	                                 a request, whose answer is stdout; with -until again until it is as wanted
//	http …                           the same without TLS; redirects are not followed
//	until D [-match RE] CMD ARG...   run a program until it succeeds, and its output matches
//	json PATH RE                     the value at PATH (as in 0.state) of the JSON in stdout matches
//	json PATH                        it is there, and becomes stdout; ! json PATH: it is not there
//	put NAME FILE [RE]               set a variable to what a file (or stdout) has, or to the first group that RE finds in it
//	archive FILE VERSION             make an image of the stories' app elsewhere, as an OCI archive
//	size BYTES FILE                  make a file of so many bytes
//	random FILE                      make a file with a text that is nowhere else
//	load start|stop|check NAME …     a steady load, see load_test.go
//	status                           the processes of the installation, as the supervisor says
//	kill9 PROCESS [D]                kill a process of the platform, or the supervisor itself ("up"); nobody starts it again for D
//	back PROCESS                     wait until it runs again
//	up [plain]                       start the supervisor again after it was killed; plain: by its root alone
//	restart PROCESS                  have the supervisor replace a process
//	gone D TEXT                      no process of the installation has TEXT in its command line, or soon has not
//	invited PERSONA FILE             see people_test.go; also withtoken and closed
//	many D N TEXT                    N processes have; N may be "some"
//	waiting D APP N                  N pushes to the app wait for another one
//	settled D APP                    nothing of the app is under way
//	history N D PROCESS...           N people change config while processes are killed: what they were told fits together
//	another NAME                     play on with another installation, made anew or (main) the shared one
//	stopped                          take this installation down, and look whether anything is left
//	nowhere FILE                     no file of the installation has the text that FILE has
//	flip PATH                        change one byte of a file
//	flip DIR TEXT                    the same with the newest file of images/DIR that holds TEXT; its path is stdout
//	older take NAME DIR...|put NAME  see audit_test.go, as leaf OLD NEW and resign
//	attack [RE...]                   see attack_test.go
//	cutstarts PROCESS APP TIMES      server, node or containerd is killed in the middle of a start, and who comes after it goes on
//	owned ADDRESS PROCESS...         see owned_test.go; hostileserver, hostileedge and so on are in hostile_*_test.go
//	registry HOST [token|elsewhere]  start a registry, see registry_test.go; installations made afterwards resolve its name
//	image NAME:TAG VERSION           push an image of the stories' app to the last one
//
// commands returns them.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"as": as, "token": token, "login": login, "app": layOut, "release": commit, "deploy": deploy, "archive": archive,
		"https":  func(ts *testscript.TestScript, neg bool, args []string) { request(ts, neg, "https", args) },
		"http":   func(ts *testscript.TestScript, neg bool, args []string) { request(ts, neg, "http", args) },
		"until":  until,
		"json":   jsonValue,
		"put":    put,
		"load":   loadCommand,
		"status": status, "kill9": kill9, "term": term, "back": back, "up": up, "another": another, "broken": broken, "disturb": disturb, "rules": rulesOf,
		"nowhere": nowhere, "flip": flip, "attack": attack, "size": size, "random": random,
		"invited": invited, "withtoken": withToken, "closed": closed,
		"gone": gone, "many": many, "waiting": waiting, "settled": settled, "stopped": stopped, "restart": restart, "registry": registry, "image": image, "torn": torn, "history": history, "failing": failing, "confined": confined,
		"collect": collect, "older": older, "leaf": leaf, "resign": resign,
		"cutstarts": cutStarts, "owned": owned, "hostileserver": hostileServer, "hostileedge": hostileEdge, "hostiledial": hostileDial, "hostilehelper": hostileHelper,
		"authority": authority, "issued": issuedFor, "dns": setNames, "bring": bring, "shown": shown,
	}
}

// story is what a script has of its own.
type story struct {
	on    *installation
	here  map[string]*installation
	loads map[string]*load
	work  string
	ca    *acmetest.CA // a certificate authority that looks at this story's installation

	outside outside // what the story has on the internet

	t      *testing.T
	unlock func() // lets others make tokens
}

type storyKey struct{}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

func setup(env *testscript.Env) error {
	s := &story{on: shared, here: map[string]*installation{"main": shared}, loads: map[string]*load{}, work: env.WorkDir, t: env.T().(*player).T}
	env.Values[storyKey{}] = s
	name := filepath.Base(env.WorkDir)
	name = strings.TrimPrefix(name, "script-")
	env.Setenv("APP", unique(name, ""))
	env.Setenv("HOST_ADDRESS", hostAddress())
	env.Setenv("PATH", filepath.Dir(with.bulwark)+":/usr/local/bin:/usr/bin:/bin")
	for _, kv := range s.on.env() {
		k, v, _ := strings.Cut(kv, "=")
		env.Setenv(k, v)
	}
	for _, kv := range persona(env.WorkDir, "user") {
		k, v, _ := strings.Cut(kv, "=")
		env.Setenv(k, v)
	}
	env.Defer(func() {
		for _, l := range s.loads {
			l.end()
		}
		s.outside.end()
	})
	return os.MkdirAll(filepath.Join(env.WorkDir, "home", "user"), 0o700)
}

// env is what a script knows of an installation.
func (i *installation) env() []string {
	out := []string{"ROOT=" + i.root, "URL=https://localhost:" + i.ports["API"]}
	for name, port := range i.ports {
		out = append(out, name+"_PORT="+port)
	}
	return out
}

// persona is the environment of a person. OpenSSH takes the home from the user database, so that it is told the files.
func persona(work, who string) []string {
	home := filepath.Join(work, "home", who)
	return []string{
		"HOME=" + home, "PERSONA=" + who, "USER=" + who, "XDG_CONFIG_HOME=", "LC_ALL=C.UTF-8",
		"GIT_SSH_COMMAND=ssh -F none -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes -o StrictHostKeyChecking=yes" +
			" -o UserKnownHostsFile=" + home + "/.ssh/known_hosts -o GlobalKnownHostsFile=/dev/null -i " + home + "/.ssh/id_ed25519",
		"GIT_AUTHOR_NAME=" + who, "GIT_AUTHOR_EMAIL=" + who + "@example.org", "GIT_COMMITTER_NAME=" + who, "GIT_COMMITTER_EMAIL=" + who + "@example.org",
		"GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
	}
}

func as(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: as PERSONA")
	}
	ts.Check(os.MkdirAll(filepath.Join(of(ts).work, "home", args[0]), 0o700))
	for _, kv := range persona(of(ts).work, args[0]) {
		k, v, _ := strings.Cut(kv, "=")
		ts.Setenv(k, v)
	}
}

// token makes a token. A newer one ends it, so nobody else makes one until it was used: login, or "token done".
func token(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	if len(args) > 0 {
		s.unlock()
		return
	}
	s.on.tokens.Lock()
	s.unlock = sync.OnceFunc(s.on.tokens.Unlock)
	ts.Defer(s.unlock)
	out, err := s.on.run("token")
	ts.Check(err)
	ts.Setenv("BULWARK_TOKEN", strings.TrimSpace(out))
}

func login(ts *testscript.TestScript, _ bool, _ []string) {
	token(ts, false, nil)
	err := ts.Exec("bulwark", "login", ts.Getenv("URL"))
	of(ts).unlock()
	ts.Check(err)
	ts.Setenv("BULWARK_TOKEN", "")
}

//go:embed testdata/apps
var apps embed.FS

func layOut(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: app KIND DIR [VERSION]")
	}
	kind, dir, version := args[0], ts.MkAbs(args[1]), "1"
	if len(args) == 3 {
		version = args[2]
	}
	b, err := fs.ReadFile(apps, "testdata/apps/"+kind+".txtar")
	ts.Check(err)
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(txtar.Write(txtar.Parse(bytes.ReplaceAll(b, []byte("@VERSION@"), []byte(version))), dir))
	if kind == "probe" {
		program, err := os.ReadFile(with.probe)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, "probe"), program, 0o755))
	}
	git(ts, dir, "init", "-q", "-b", "main")
	git(ts, dir, "add", "-A")
	git(ts, dir, "commit", "-q", "-m", "Version "+version)
}

// git runs git in a directory; its output goes to the script's log only if it fails.
func git(ts *testscript.TestScript, dir string, args ...string) {
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH")}
	for _, name := range []string{"HOME", "GIT_SSH_COMMAND", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_CONFIG_NOSYSTEM"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func commit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: release DIR VERSION")
	}
	dir := ts.MkAbs(args[0])
	file := filepath.Join(dir, "VERSION")
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(dir, "public", "index.html")
	}
	ts.Check(os.WriteFile(file, []byte(args[1]+"\n"), 0o644))
	git(ts, dir, "commit", "-q", "-a", "-m", "Version "+args[1])
}

func deploy(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: deploy NAME KIND")
	}
	layOut(ts, false, []string{args[1], args[0]})
	ts.Check(ts.Chdir(args[0]))
	ts.Check(ts.Exec("bulwark", "apps", "create", args[0]))
	ts.Check(ts.Exec("git", "push", "bulwark", "main"))
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	match := ""
	if len(args) > 3 && args[1] == "-match" {
		match = args[2]
		args = append(args[:1:1], args[3:]...)
	}
	if len(args) < 2 || neg {
		ts.Fatalf("usage: until DURATION [-match RE] PROGRAM ARG...")
	}
	re := regexp.MustCompile("(?m)" + match)
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	last := poll(within, func() error {
		out, err := runOnce(ts, args[1:])
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		if !re.MatchString(out) {
			return fmt.Errorf("no %q in\n%s", match, out)
		}
		fmt.Fprint(ts.Stdout(), out)
		return nil
	})
	if last != nil {
		ts.Fatalf("not within %s: %v", within, last)
	}
}

func runOnce(ts *testscript.TestScript, args []string) (string, error) { return runAs(ts, "", args) }

// runAs is runOnce, for a program that has a token if that is not empty.
func runAs(ts *testscript.TestScript, token string, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	path := args[0]
	if path == "bulwark" {
		path = with.bulwark
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "LC_ALL=C.UTF-8"}
	if token != "" {
		cmd.Env = append(cmd.Env, "BULWARK_TOKEN="+token, "BULWARK_SERVER="+ts.Getenv("URL"))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// poll tries until it succeeds or the time is up.
func poll(within time.Duration, try func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: json PATH [RE]")
	}
	got, err := lookUp(ts.ReadFile("stdout"), args[0])
	if neg && len(args) == 1 {
		if err == nil {
			ts.Fatalf("there is a %s: %s", args[0], got)
		}
		return
	}
	ts.Check(err)
	if len(args) == 2 { // stdout stays, for the next look
		if regexp.MustCompile(args[1]).MatchString(got) == neg {
			ts.Fatalf("%s is %s", args[0], got)
		}
		return
	}
	fmt.Fprintln(ts.Stdout(), got)
}

// lookUp reads one value out of JSON; of several values one after the other it takes the last.
func lookUp(text, path string) (string, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	var v any
	for dec.More() {
		v = nil
		if err := dec.Decode(&v); err != nil {
			return "", fmt.Errorf("stdout is not JSON: %w", err)
		}
	}
	if path != "." {
		for _, key := range strings.Split(path, ".") {
			switch x := v.(type) {
			case map[string]any:
				var ok bool
				if v, ok = x[key]; !ok {
					return "", fmt.Errorf("there is no %s in %s", path, text)
				}
			case []any:
				n, err := strconv.Atoi(key)
				if err != nil || n >= len(x) {
					return "", fmt.Errorf("there is no %s in %s", path, text)
				}
				v = x[n]
			default:
				return "", fmt.Errorf("there is no %s in %s", path, text)
			}
		}
	}
	if s, ok := v.(string); ok {
		return s, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

func put(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: put NAME FILE [RE]")
	}
	text := strings.TrimSpace(ts.ReadFile(args[1]))
	if len(args) == 3 {
		m := regexp.MustCompile(args[2]).FindStringSubmatch(text)
		if m == nil {
			ts.Fatalf("no %s in %s", args[2], text)
		}
		text = m[1]
	}
	ts.Setenv(args[0], text)
}

func random(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: random FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("mark-"+rand.Text()+"\n"), 0o600))
}

// size makes a file of so many bytes.
func size(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: size BYTES FILE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), bytes.Repeat([]byte("x"), n), 0o600))
}

func status(ts *testscript.TestScript, _ bool, _ []string) {
	all, err := of(ts).on.status()
	ts.Check(err)
	for _, p := range all {
		fmt.Fprintf(ts.Stdout(), "%s %s pid=%d restarts=%d exit=%q\n", p.Name, p.State, p.PID, p.Restarts, p.LastExit)
	}
}

func up(ts *testscript.TestScript, _ bool, args []string) {
	on := of(ts).on
	if len(args) == 0 {
		args = []string{"--name", on.name}
	}
	if args[0] == "plain" {
		args = nil
	}
	ts.Check(on.start(args...))
}

func another(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: another NAME")
	}
	bringUp(ts, args[0], with)
}

// bringUp starts an installation of these programs, or goes back to it.
func bringUp(ts *testscript.TestScript, name string, p programs) {
	s := of(ts)
	i := s.here[name]
	if i == nil {
		var err error
		i, err = newInstallationWithin(s.outside.within(), p, fmt.Sprintf("%s-%d", name, os.Getpid()))
		s.here[name] = i
		ts.Defer(func() {
			if s.t.Failed() {
				s.t.Logf("logs of %s:\n%s", name, i.logs())
			}
			if s.here[name] == i { // nobody took it down
				if err := i.down(); err != nil {
					s.t.Errorf("%v\n%s", err, i.logs())
				}
			}
		})
		ts.Check(err)
	}
	s.on = i
	for _, kv := range i.env() {
		k, v, _ := strings.Cut(kv, "=")
		ts.Setenv(k, v)
	}
}

func restart(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: restart PROCESS")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	ts.Check(supervise.NewClient(of(ts).on.inst).Restart(ctx, args[0]))
}

func stopped(ts *testscript.TestScript, _ bool, _ []string) {
	s := of(ts)
	for name, i := range s.here {
		if i == s.on {
			delete(s.here, name)
		}
	}
	ts.Check(s.on.down())
}

// waiting and settled look into the server's operations by what its API says of the app's builds.
func waiting(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: waiting DURATION APP NUMBER")
	}
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(poll(within, func() error {
		// The pack of a source is kept from the moment in which a push is accepted until its build is over.
		packs, err := filepath.Glob(filepath.Join(of(ts).on.root, "server", "sources", "*.pack"))
		if err != nil || len(packs) < want+1 {
			return fmt.Errorf("%d sources wait or are being built, not %d", len(packs), want+1)
		}
		return nil
	}))
}

func settled(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: settled DURATION APP")
	}
	within, err := time.ParseDuration(args[0])
	ts.Check(err)
	quiet := 0
	ts.Check(poll(within, func() error {
		for what, re := range map[string]string{"builds": `"state": "(running|waiting)"`, "releases": `"state": "candidate"`} {
			out, err := runOnce(ts, []string{"bulwark", what, "--app", args[1], "--json"})
			if err != nil {
				quiet = 0
				return err
			}
			if regexp.MustCompile(re).MatchString(out) {
				quiet = 0
				return fmt.Errorf("under way: %s", out)
			}
		}
		if quiet++; quiet < 5 { // between a build and its release nothing seems to be under way
			return errors.New("just now")
		}
		return nil
	}))
}

// hostAddress is an address of this machine that is not the loopback's.
func hostAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return "192.0.2.1"
}

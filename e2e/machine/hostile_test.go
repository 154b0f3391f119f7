//go:build machine

package machine

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// watcher writes down the bounds of every control group of the platform that it sees within some time.
const watcher = `import glob, os, sys, time
seen = {}
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end and not os.path.exists("/run/watched"):
    for d in glob.glob("/sys/fs/cgroup/bulwark-main*") + glob.glob("/sys/fs/cgroup/bulwark-main*/*/"):
        try:
            v = " ".join(f + "=" + open(d.rstrip("/") + "/" + f).read().strip().replace(" ", ",") for f in ("memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max"))
        except OSError:
            continue
        name = d.rstrip("/")[len("/sys/fs/cgroup/"):]
        seen[name] = v
    time.sleep(0.01)
for name in sorted(seen):
    print(name, seen[name])
`

// instances returns the ids of an app's healthy instances.
func (m *machine) instances(app string) string {
	m.t.Helper()
	var all []struct{ ID, Phase string }
	text := m.ada(app, "bulwark", "ps", "--json")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		m.t.Fatal(text, err)
	}
	var out []string
	for _, i := range all {
		out = append(out, i.ID)
	}
	return strings.Join(out, " ")
}

// change makes a commit of an app with another version.
func (m *machine) change(app, from, to string) {
	m.t.Helper()
	for file, text := range apps[app] {
		m.write(app+"/"+file, strings.ReplaceAll(text, app+" "+from, app+" "+to))
		apps[app][file] = strings.ReplaceAll(text, app+" "+from, app+" "+to)
	}
	m.ada(app, "git", "commit", "-qam", to)
}

// limits looks at the bounds that the kernel has, and has apps run into them.
func limits(m *machine) {
	m.write("/root/watch.py", watcher)
	watched := m.ask(request{Args: []string{"python3", "/root/watch.py", "600"}, Timeout: 700 * time.Second})
	m.change("snake", "one", "two")
	m.want(m.ada("snake", "git", "push", "bulwark", "main"), "Released v2")
	m.root("touch", "/run/watched")
	groups := m.await(watched, time.Minute).Out
	m.t.Log(groups)
	for _, pattern := range []string{
		`(?m)^bulwark-main\.builds memory.max=max memory.swap.max=max pids.max=max cpu.weight=12 `,
		`(?m)^bulwark-main\.builds/bld_\S+ memory.max=\d+ memory.swap.max=0 pids.max=\d+ cpu.weight=\d+ `,
		`(?m)^bulwark-main/cell-\S+ memory.max=\d+ memory.swap.max=0 pids.max=\d+ cpu.weight=25 `,
		`(?m)^bulwark-main/ins_\S+ memory.max=\d+ memory.swap.max=0 pids.max=\d+ cpu.weight=\d+ cpu.max=\d+,\d+$`,
	} {
		m.want(groups, pattern)
	}
	m.serves("snake", "snake two")
	site, hello := m.instances("site"), m.instances("hello")
	for _, path := range []string{"/eat", "/fork"} {
		began := time.Now()
		m.t.Logf("snake%s: %+v after %s", path, m.get("snake", path), time.Since(began).Round(time.Second))
		m.serves("snake", "snake two")
		m.serves("hello", "hello one")
		m.serves("site", "site one")
		if s, h := m.instances("site"), m.instances("hello"); s != site || h != hello {
			m.t.Errorf("%s of one app ended an instance of another: %s, %s; before: %s, %s", path, s, h, site, hello)
		}
	}
	m.t.Log(m.ada("snake", "bulwark", "ps"))
	m.want(m.root("journalctl", "-k", "--no-pager"), "Memory cgroup out of memory|oom-kill:constraint=CONSTRAINT_MEMCG")
	m.want(m.root("systemctl", "is-active", "bulwark-main"), "^active")
}

// ready waits until every process runs.
func (m *machine) ready() {
	m.t.Helper()
	m.until(60*time.Second, "every process runs", func() bool { return m.try("bulwark", "supervisor", "ready").Code == 0 })
}

// all waits until every app serves.
func (m *machine) all() {
	m.t.Helper()
	for _, name := range []string{"site", "hello", "snake"} {
		m.serves(name, name+" ")
	}
}

// kill ends each process as hard as can be, and the supervisor, which systemd starts again.
func kill(m *machine) {
	before := m.instances("site") + " " + m.instances("hello")
	for _, name := range []string{"server", "node", "edge", "dial", "egress", "resolver", "containerd"} {
		m.root("pkill", "-KILL", "-f", "^\\S+/bulwark process "+name)
		m.ready()
		m.all()
	}
	pid := m.root("systemctl", "show", "-P", "MainPID", "bulwark-main")
	m.root("kill", "-KILL", strings.TrimSpace(pid))
	m.until(30*time.Second, "systemd has started another supervisor", func() bool {
		p := m.root("systemctl", "show", "-P", "MainPID", "bulwark-main")
		return p != pid && p != "0\n"
	})
	m.ready()
	m.all()
	if after := m.instances("site") + " " + m.instances("hello"); after != before {
		m.t.Errorf("instances did not live on: %s, before %s", after, before)
	}
	began := time.Now()
	m.root("systemctl", "restart", "bulwark-main")
	m.t.Logf("systemctl restart took %s", time.Since(began).Round(100*time.Millisecond))
	m.ready()
	m.all()
}

// turn sets the machine's clock.
func (m *machine) turn(by string) {
	m.t.Helper()
	m.t.Log("the clock is set " + by + ": " + strings.TrimSpace(m.root("date", "-s", by)))
}

// cronRuns counts the runs of snake's job.
func (m *machine) cronRuns() int {
	m.t.Helper()
	return strings.Count(m.ada("snake", "bulwark", "cron", "--json"), `"due"`)
}

// push deploys another version of site while the clock may be wrong: it works, or it is refused with a sentence and what
// serves is untouched.
func (m *machine) pushAnyhow(from, to string) (version string) {
	m.t.Helper()
	m.change("site", from, to)
	r := m.tryAda("site", "git", "push", "bulwark", "main")
	if r.Failed != "" {
		m.t.Fatalf("a push did not end: %+v%s", r, m.journal())
	}
	if r.Code == 0 {
		m.want(r.Err, "Released v")
		m.serves("site", "site "+to)
		m.t.Logf("a push was taken")
		return to
	}
	m.t.Logf("a push was refused: %s", r.Err)
	m.serves("site", "site ")
	return from
}

// clock turns the whole machine's clock, while the platform runs and while it does not.
func clock(m *machine) {
	runs := m.cronRuns()
	now := "one"
	for i, by := range []string{"+365 days", "-365 days", "-365 days", "+365 days"} {
		m.turn(by)
		m.all()
		now = m.pushAnyhow(now, "clock"+strconv.Itoa(i))
		m.want(m.ada("", "bulwark", "whoami"), "p_")
		m.want(m.ada("hello", "bulwark", "config", "set", "TURN="+strconv.Itoa(i)), "Released v")
		m.all()
		m.t.Log(m.tryAda("site", "bulwark", "verify"))
	}
	m.change("site", now, "right")
	m.want(m.ada("site", "git", "push", "bulwark", "main"), "Released v")
	m.serves("site", "site right")
	for _, by := range []string{"+365 days", "-365 days", "-365 days", "+365 days"} {
		m.root("systemctl", "stop", "bulwark-main")
		m.turn(by)
		m.root("systemctl", "start", "bulwark-main")
		m.ready()
		m.all()
	}
	if more := m.cronRuns() - runs; more > 100 {
		m.t.Errorf("the turns of the clock made %d runs of a job", more)
	}
	m.change("site", "right", "after")
	m.want(m.ada("site", "git", "push", "bulwark", "main"), "Released v")
	m.serves("site", "site after")
	m.want(m.ada("site", "bulwark", "verify"), "All of it holds")
	// An instance that crashed while the clock was ahead comes back when it is right.
	m.turn("+365 days")
	m.get("snake", "/eat")
	m.turn("-365 days")
	m.serves("snake", "snake ")
}

// power takes the power away, at rest right after a change was acknowledged and at moments of a deploy.
func power(m *machine) {
	m.want(m.ada("hello", "bulwark", "config", "set", "GREETING=kept"), "Released v")
	m.do(request{Write: "/proc/sysrq-trigger", Input: "b", Timeout: time.Second})
	<-m.ended
	m.boot()
	m.ready()
	m.serves("hello", "kept")
	m.all()
	for i, after := range []string{"bld_", "ins_"} {
		was := m.instances("hello")
		version := "cut" + strconv.Itoa(i)
		m.change("hello", map[int]string{0: "one", 1: "two"}[i], version)
		m.ask(request{User: "ada", Dir: home("hello"), Args: []string{"git", "push", "bulwark", "main"}, Timeout: 10 * time.Minute})
		m.until(60*time.Second, "the push has come to "+after, func() bool {
			found := m.root("find", "/sys/fs/cgroup", "-maxdepth", "2", "-path", "*bulwark-main*", "-name", after+"*")
			for name := range strings.FieldsSeq(found) {
				if id := name[strings.LastIndex(name, "/")+1:]; !strings.Contains(was, id) && (after == "bld_" || !strings.Contains(m.instances("site")+m.instances("snake"), id)) {
					return true
				}
			}
			return false
		})
		m.cut()
		m.boot()
		m.ready()
		m.all()
		m.serves("hello", "kept")
		m.t.Log(m.ada("hello", "bulwark", "builds"), m.ada("hello", "bulwark", "releases"))
		m.until(120*time.Second, "the deploy that was cut off has ended", func() bool {
			return !regexp.MustCompile(`"state": "(queued|waiting|running|building)"`).MatchString(m.ada("hello", "bulwark", "builds", "--json"))
		})
		m.change("hello", version, "two")
		r := m.tryAda("hello", "git", "push", "bulwark", "main")
		m.want(r.Err, "Released v")
		m.serves("hello", "hello two .*kept")
	}
	m.want(m.ada("hello", "bulwark", "verify"), "All of it holds")
}

// remove takes all of it away.
func remove(m *machine) {
	m.root("systemctl", "disable", "--now", "bulwark-main")
	m.root("bulwark", "uninstall", "--yes")
	m.root("systemctl", "daemon-reload")
	m.root("dpkg", "-P", "bulwark")
	for _, probe := range [][]string{
		{"find", "/sys/fs/cgroup", "-name", "*bulwark*"}, {"find", "/var/lib", "/etc/systemd", "/run", "/usr", "-name", "*bulwark*", "-not", "-path", "*ca-certificates*"},
		{"grep", "-s", "bulwark", "/etc/subuid", "/etc/subgid", "/proc/self/mountinfo"}, {"losetup", "-l", "-n"}, {"nft", "list", "ruleset"}, {"ip", "netns"},
		{"pgrep", "-f", "bulwark|containerd|buildkit"}, {"ip", "-o", "link", "show", "type", "veth"},
	} {
		if r := m.try(probe...); r.Out != "" {
			m.t.Errorf("%s still finds:\n%s", strings.Join(probe, " "), r.Out)
		}
	}
}

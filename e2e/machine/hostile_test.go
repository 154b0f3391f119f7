//go:build machine

package machine

import (
	"encoding/json"
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
		`(?m)^bulwark-main\.engine memory.max=max memory.swap.max=max pids.max=max cpu.weight=50 `,
	} {
		m.want(groups, pattern)
	}
	m.engine()
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

// engine looks who is in the group of those that start and end instances: they are not in systemd's group of the unit.
func (m *machine) engine() {
	m.t.Helper()
	members := m.members("/bulwark-main.engine")
	for _, program := range []string{"process node ", "process containerd ", "containerd-shim-runc-v2 "} {
		if !strings.Contains(members, program) {
			m.t.Errorf("the group of the engine lacks %s:\n%s", program, members)
		}
	}
	if unit := m.members("/system.slice/bulwark-main.service"); strings.Contains(unit, "containerd") || strings.Contains(unit, "process node") {
		m.t.Errorf("the group of the unit holds some of the engine:\n%s", unit)
	}
}

// members returns the command lines of the processes in a control group.
func (m *machine) members(group string) string {
	m.t.Helper()
	return m.root("sh", "-c", `for p in $(cat /sys/fs/cgroup$1/cgroup.procs); do tr '\0' ' ' < /proc/$p/cmdline; echo; done`, "sh", group)
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
	m.engine()
	// A stop leaves the instances, each with its shim, and nothing of the platform.
	m.root("systemctl", "stop", "bulwark-main")
	if left := m.try("pgrep", "-af", "^\\S+/bulwark "); left.Out != "" {
		m.t.Errorf("systemctl stop leaves:\n%s", left.Out)
	}
	for line := range strings.Lines(m.members("/bulwark-main.engine")) {
		if !strings.Contains(line, "containerd-shim-runc-v2 ") {
			m.t.Errorf("systemctl stop leaves in the group of the engine: %s", line)
		}
	}
	m.root("systemctl", "start", "bulwark-main")
	m.ready()
	m.all()
	m.engine()
	if after := m.instances("site") + " " + m.instances("hello"); after != before {
		m.t.Errorf("instances did not live on through a stop: %s, before %s", after, before)
	}
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

// clock turns the whole machine's clock while the platform runs.
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
	if more := m.cronRuns() - runs; more > 100 {
		m.t.Errorf("the turns of the clock made %d runs of a job", more)
	}
}

// starts turns the clock while the platform does not run.
func starts(m *machine) {
	runs := m.cronRuns()
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
	m.write("site/public/index.html", "site after\n")
	m.ada("site", "git", "commit", "-qam", "after")
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
	// ada's own repository is to survive too.
	m.ada("hello", "git", "config", "core.fsync", "all")
	now := "one"
	for _, c := range []struct {
		when string
		come func(was string) bool // the push has come to where the power goes away
	}{
		{"building", func(string) bool { return m.lastBuild("hello") == "running" }},
		{"starting", func(was string) bool {
			for id := range strings.FieldsSeq(m.instances("hello")) {
				if !strings.Contains(was, id) {
					return true
				}
			}
			return false
		}},
	} {
		was := m.instances("hello")
		m.change("hello", now, c.when)
		m.ask(request{User: "ada", Dir: home("hello"), Args: []string{"git", "push", "bulwark", "main"}, Timeout: 10 * time.Minute})
		m.until(60*time.Second, "the push has come to "+c.when, func() bool { return c.come(was) })
		m.cut()
		m.boot()
		m.ready()
		m.all()
		m.serves("hello", "kept")
		// The push was taken before the cut: it goes on to its end, though nobody waits for it any more.
		m.until(180*time.Second, "the deploy that was cut off has ended", func() bool { s := m.lastBuild("hello"); return s != "waiting" && s != "running" })
		if s := m.lastBuild("hello"); s != "succeeded" {
			m.t.Errorf("the build that was cut off while %s is %s: %s%s", c.when, s, m.ada("hello", "bulwark", "builds"), m.journal())
		}
		m.serves("hello", "hello "+c.when+" .*kept")
		now = c.when + " again"
		m.change("hello", c.when, now)
		m.want(m.ada("hello", "git", "push", "bulwark", "main"), "Released v")
		m.serves("hello", "hello "+now+" .*kept")
		m.t.Log(m.ada("hello", "bulwark", "builds"), m.ada("hello", "bulwark", "releases"))
	}
	m.want(m.ada("hello", "bulwark", "verify"), "All of it holds")
}

// lastBuild returns the state of an app's newest build.
func (m *machine) lastBuild(app string) string {
	m.t.Helper()
	var all []struct {
		Number int
		State  string
	}
	text := m.ada(app, "bulwark", "builds", "--json")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		m.t.Fatal(text, err)
	}
	state, newest := "", 0
	for _, b := range all {
		if b.Number > newest {
			state, newest = b.State, b.Number
		}
	}
	return state
}

// remove takes all of it away.
func remove(m *machine) {
	m.root("systemctl", "disable", "--now", "bulwark-main")
	m.root("bulwark", "uninstall", "--yes")
	m.root("systemctl", "daemon-reload")
	m.root("dpkg", "-P", "bulwark")
	for _, probe := range [][]string{
		{"find", "/sys/fs/cgroup", "-name", "*bulwark*"}, {"find", "/var/lib", "/etc/systemd", "/run", "/usr", "-name", "*bulwark*", "-not", "-path", "*ca-certificates*", "-not", "-path", "/run/udev/*"},
		{"grep", "-s", "bulwark", "/etc/subuid", "/etc/subgid", "/proc/self/mountinfo"}, {"losetup", "-l", "-n"}, {"nft", "list", "ruleset"}, {"ip", "netns"},
		{"pgrep", "-f", "bulwark|containerd|buildkit"}, {"ip", "-o", "link", "show", "type", "veth"},
	} {
		if r := m.try(probe...); r.Out != "" {
			m.t.Errorf("%s still finds:\n%s", strings.Join(probe, " "), r.Out)
		}
	}
}

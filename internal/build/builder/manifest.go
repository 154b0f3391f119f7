package builder

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/bulwark-paas/bulwark"
)

// manifestName is the file at the root of a source tree that says what the platform cannot guess.
const manifestName = "bulwark.toml"

// manifest is bulwark.toml, read and checked. A zero manifest is that of an app without the file.
type manifest struct {
	planner    string // "" to detect
	dir        string // sub-folder that is built, "" for the root; clean and inside
	dockerfile string // relative to dir
	env        map[string]string
	secrets    []string
	processes  map[bulwark.ProcessType]bulwark.Command // nil if not given
	plan       bulwark.Plan                            // Health, Port, Writable, Isolation, Cron and time-outs only
}

// manifestFile is the form of bulwark.toml. Strings are checked after decoding, for messages with a line.
type manifestFile struct {
	Build struct {
		Planner    string            `toml:"planner"`
		Dir        string            `toml:"dir"`
		Dockerfile string            `toml:"dockerfile"`
		Env        map[string]string `toml:"env"`
		Secrets    []string          `toml:"secrets"`
	} `toml:"build"`
	Processes map[string]string `toml:"processes"`
	Web       struct {
		Health string `toml:"health"`
		Port   int64  `toml:"port"`
	} `toml:"web"`
	Timeouts struct {
		FirstByte string `toml:"first_byte"`
		Idle      string `toml:"idle"`
	} `toml:"timeouts"`
	Writable  []string `toml:"writable"`
	Isolation string   `toml:"isolation"`
	Cron      []struct {
		Name     string `toml:"name"`
		Schedule string `toml:"schedule"`
		Command  string `toml:"command"`
	} `toml:"cron"`
}

// planners that bulwark.toml may name.
var plannerNames = []string{"go", "node", "python", "static", "dockerfile"}

// parseManifest reads bulwark.toml.
func parseManifest(text string) (*manifest, error) {
	var f manifestFile
	md, err := toml.Decode(text, &f)
	if err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, at(manifestName, pe.Position.Line, pe.Message, "")
		}
		// A value of the wrong type is told as text only.
		line, text := 0, strings.TrimPrefix(err.Error(), "toml: ")
		if m := typeError.FindStringSubmatch(text); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = fmt.Sprintf("%s: %s", m[2], m[3])
		}
		return nil, at(manifestName, line, text, "")
	}
	r := manifestReader{text: text, m: &manifest{env: f.Build.Env}}
	if extra := md.Undecoded(); len(extra) > 0 {
		return nil, r.unknown(extra[0])
	}
	r.build(&f)
	r.processes(&f, md)
	r.web(&f, md)
	r.cron(&f)
	return r.m, r.err
}

var typeError = regexp.MustCompile(`^line ([0-9]+) \(last key "([^"]*)"\): (.*)$`)

// manifestReader checks a decoded manifest part by part; the first error stays.
type manifestReader struct {
	text string
	m    *manifest
	err  error
}

func (r *manifestReader) fail(key []string, what, hint string) {
	if r.err == nil {
		r.err = at(manifestName, lineOf(r.text, key, 0), what, hint)
	}
}

func (r *manifestReader) unknown(key toml.Key) error {
	hint := "The keys are build.planner, build.dir, build.dockerfile, build.env, build.secrets, processes, web.health, web.port, timeouts.first_byte, timeouts.idle, writable, isolation, and cron with name, schedule and command."
	if last := key[len(key)-1]; last == "writable" || last == "isolation" {
		hint = fmt.Sprintf("%q stands above the first [table]: TOML reads what follows a table's name as part of the table.", last)
	}
	return at(manifestName, lineOf(r.text, key, -1), fmt.Sprintf("the key %q is not known", key.String()), hint)
}

func (r *manifestReader) build(f *manifestFile) {
	b := &f.Build
	if b.Planner != "" && !slices.Contains(plannerNames, b.Planner) {
		r.fail([]string{"build", "planner"}, fmt.Sprintf("there is no planner %+q", short(b.Planner)), "The planners are "+strings.Join(plannerNames, ", ")+".")
	}
	if b.Dockerfile != "" {
		if b.Planner != "" && b.Planner != "dockerfile" {
			r.fail([]string{"build", "dockerfile"}, fmt.Sprintf("a Dockerfile is named, but the planner is %q", b.Planner), "Remove one of the two keys.")
		}
		b.Planner = "dockerfile"
	}
	r.m.planner = b.Planner
	r.m.dir = r.inside("dir", b.Dir)
	r.m.dockerfile = r.inside("dockerfile", b.Dockerfile)
	for _, name := range slices.Sorted(maps.Keys(b.Env)) {
		key := []string{"build", "env", name}
		if _, err := bulwark.ParseConfigName(name); err != nil {
			r.fail(key, fmt.Sprintf("%+q cannot be the name of a build variable", short(name)), "Use letters, digits and \"_\", and begin with a letter.")
		}
		if v := b.Env[name]; strings.ContainsRune(v, 0) || len(v) > 32<<10 {
			r.fail(key, fmt.Sprintf("the value of %s holds a NUL or is longer than 32 KiB", name), "")
		}
	}
	for _, name := range b.Secrets {
		if _, err := bulwark.ParseConfigName(name); err != nil {
			r.fail([]string{"build", "secrets"}, fmt.Sprintf("%+q cannot be the name of a build secret", short(name)), "Use letters, digits and \"_\", and begin with a letter, for example NPM_TOKEN.")
		}
		if _, both := b.Env[name]; both {
			r.fail([]string{"build", "secrets"}, fmt.Sprintf("%s is a build secret and a build variable", name), "Remove it from one of the two.")
		}
		r.m.secrets = append(r.m.secrets, name)
	}
}

// inside checks a path that must stay within the source tree.
func (r *manifestReader) inside(key, p string) string {
	if p == "" {
		return ""
	}
	clean := path.Clean(p)
	if path.IsAbs(p) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(p, 0) {
		r.fail([]string{"build", key}, fmt.Sprintf("%+q is not inside the source tree", short(p)), "Give a path relative to bulwark.toml, without \"..\".")
	}
	if clean == "." {
		return ""
	}
	return clean
}

func (r *manifestReader) processes(f *manifestFile, md toml.MetaData) {
	if !md.IsDefined("processes") {
		return
	}
	if len(f.Processes) == 0 {
		r.fail([]string{"processes"}, "[processes] names no process", "Write a line such as web = \"./server\", or remove the table.")
		return
	}
	r.m.processes = map[bulwark.ProcessType]bulwark.Command{}
	for _, name := range slices.Sorted(maps.Keys(f.Processes)) {
		key := []string{"processes", name}
		typ, err := bulwark.ParseProcessType(name)
		if err != nil {
			r.fail(key, fmt.Sprintf("%+q is not the name of a process type", short(name)), "Use 1 to 30 of the characters a–z, 0–9 and \"-\", beginning with a letter.")
			continue
		}
		cmd, err := parseCommand(f.Processes[name])
		if err != nil {
			r.fail(key, err.Error(), "")
			continue
		}
		r.m.processes[typ] = cmd
	}
}

func (r *manifestReader) web(f *manifestFile, md toml.MetaData) {
	if h := f.Web.Health; h != "" && (h[0] != '/' || len(h) > 512 || strings.ContainsFunc(h, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' })) {
		r.fail([]string{"web", "health"}, "the health path does not begin with \"/\", or holds a blank or another character that a URL's path cannot", "Give a path such as \"/healthz\".")
	}
	r.m.plan.Health = f.Web.Health
	if md.IsDefined("web", "port") && (f.Web.Port < 1 || f.Web.Port > 65535) {
		r.fail([]string{"web", "port"}, fmt.Sprintf("%d is not a port", f.Web.Port), "A port is a number from 1 to 65535.")
	}
	r.m.plan.Port = uint16(f.Web.Port)
	r.m.plan.FirstByte = r.timeout("first_byte", f.Timeouts.FirstByte)
	r.m.plan.Idle = r.timeout("idle", f.Timeouts.Idle)
	for _, p := range f.Writable {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == ':' || c == ',' }) {
			r.fail([]string{"writable"}, fmt.Sprintf("%+q is not an absolute path in its shortest form", short(p)), "Give paths such as \"/app/tmp\".")
		}
		for _, no := range []string{"/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64"} {
			if p == no || strings.HasPrefix(p, no+"/") {
				r.fail([]string{"writable"}, fmt.Sprintf("%+q belongs to the system and cannot be writable", short(p)), "Choose a directory below /app, /var or /home.")
			}
		}
	}
	r.m.plan.Writable = f.Writable
	isolation, err := bulwark.ParseIsolation(f.Isolation)
	if err != nil || f.Isolation == "" && md.IsDefined("isolation") {
		r.fail([]string{"isolation"}, fmt.Sprintf("there is no isolation %+q", short(f.Isolation)), "Leave it out, or write \"sandbox\".")
	}
	r.m.plan.Isolation = isolation
}

func (r *manifestReader) timeout(key, s string) bulwark.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > time.Hour {
		r.fail([]string{"timeouts", key}, fmt.Sprintf("%+q is not a duration from 1s to 1h", short(s)), "Write a number and a unit, such as \"30s\" or \"5m\".")
	}
	return bulwark.Duration(d)
}

func (r *manifestReader) cron(f *manifestFile) {
	seen := map[string]bool{}
	for i, c := range f.Cron {
		fail := func(key, what, hint string) {
			if r.err == nil {
				r.err = at(manifestName, lineOf(r.text, []string{"cron", key}, i), what, hint)
			}
		}
		typ, err := bulwark.ParseProcessType(c.Name)
		switch {
		case c.Name == "":
			fail("", "the cron job has no name", "Add a line such as name = \"cleanup\".")
		case err != nil:
			fail("name", fmt.Sprintf("%+q is not the name of a cron job", short(c.Name)), "Use 1 to 30 of the characters a–z, 0–9 and \"-\", beginning with a letter.")
		case seen[c.Name]:
			fail("name", fmt.Sprintf("there is another cron job %q", c.Name), "Give each job its own name.")
		}
		seen[c.Name] = true
		if err := checkSchedule(c.Schedule); err != nil {
			fail("schedule", err.Error(), "A schedule has five fields: minute, hour, day of the month, month, day of the week, in UTC; \"30 3 * * 1\" is Monday at 03:30.")
		}
		cmd, err := parseCommand(c.Command)
		if err != nil {
			fail("command", err.Error(), "")
		}
		r.m.plan.Cron = append(r.m.plan.Cron, bulwark.CronJob{Name: typ, Schedule: strings.Join(strings.Fields(c.Schedule), " "), Command: cmd})
	}
}

// lineOf finds the line on which a key of a TOML text stands; nth counts the tables of an array, -1 is any. The TOML library does
// not tell, so this looks for it by eye: good enough for a message, and used for nothing else. If the key itself is not
// found, the line of its table is returned.
func lineOf(text string, key []string, nth int) int {
	table, best, n, count := "", 0, 0, -1
	want := strings.Join(key, ".")
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && !strings.HasPrefix(line, "[[") || strings.HasPrefix(line, "[[") {
			array := strings.HasPrefix(line, "[[")
			name, _, _ := strings.Cut(strings.TrimLeft(line, "["), "]")
			table = strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(name), `"`, ""), " ", "")
			if array && table == key[0] {
				count++
			}
			if (table == key[0] || strings.HasPrefix(want+".", table+".")) && (!array || count == nth) {
				best = n
			}
			if table == want {
				return n
			}
			continue
		}
		k, _, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		full := strings.ReplaceAll(strings.TrimSpace(k), `"`, "")
		if table != "" {
			full = table + "." + full
		}
		if nth >= 0 && count >= 0 && table == key[0] && count != nth {
			continue
		}
		if full == want {
			return n
		}
		if strings.HasPrefix(want, full+".") { // an inline table
			best = n
		}
	}
	return best
}

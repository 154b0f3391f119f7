package builder

import (
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
)

func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		line   string
		argv   []string // nil for the shell
		expand bool
	}{
		{"./server", []string{"./server"}, false},
		{"  gunicorn app:app --bind 0.0.0.0:$PORT ", []string{"gunicorn", "app:app", "--bind", "0.0.0.0:${PORT}"}, true},
		{`node "my file.js" 'a b' c\ d`, []string{"node", "my file.js", "a b", "c d"}, false},
		{`x "a\"b\\c" '' ""`, []string{"x", `a"b\c`, "", ""}, false},
		{"x ${A}b$C_1", []string{"x", "${A}b${C_1}"}, true},
		{"x a=b --flag=$V", []string{"x", "a=b", "--flag=${V}"}, true},
		{`x '$5' y`, []string{"x", "$5", "y"}, false},
		{`x a#b c!d e~f`, []string{"x", "a#b", "c!d", "e~f"}, false},
		{`x '&& ;' "|"`, []string{"x", "&& ;", "|"}, false},
		{`x "é" ü`, []string{"x", "é", "ü"}, false},
		{"a && b", nil, false},
		{"a | b", nil, false},
		{"a > b", nil, false},
		{"a; b", nil, false},
		{"a $(b)", nil, false},
		{"a `b`", nil, false},
		{`a "$(b)"`, nil, false},
		{"a *.txt", nil, false},
		{"a ~/x", nil, false},
		{"a ${B:-c}", nil, false},
		{"a $1", nil, false},
		{"a # comment 'x", nil, false},
		{"A=b c", nil, false},
		{"cd x", nil, false},
		{"exec x", nil, false},
		{"a {b,c}", nil, false},
		{`a '$B' $C`, nil, false}, // a literal dollar beside a variable
		{`a \$B $C`, nil, false},
		{"a \\", nil, false},
	} {
		got, err := parseCommand(c.line)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		want := bulwark.Command{Argv: c.argv, Expand: c.expand}
		if c.argv == nil {
			want.Argv = []string{"/bin/sh", "-c", strings.TrimSpace(c.line)}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", c.line, got, want)
		}
	}
	for _, line := range []string{"", "   ", "a 'b", `a "b`, "a && 'b", "a\x00b", "a\nb", "a\x1b[31m", "\xff", strings.Repeat("x", maxCommand+1)} {
		if c, err := parseCommand(line); err == nil {
			t.Errorf("%q: %+v, want an error", short(line), c)
		}
	}
}

// FuzzCommand compares what is split here with what a shell makes of the same line: an argv of ours must be the shell's.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{`a b`, `a "b c" 'd'`, `a \$b "c\\"`, `x $A${B}`, `a 'b"c' "d'e"`, `a=b c`, `a b\ c`, `é "ü" \é`, "a\f", "\ra", "a\u00a0b\u00a0"} {
		f.Add(s)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseCommand(line)
		if err != nil || c.Argv[0] == "/bin/sh" {
			return
		}
		for _, a := range c.Argv {
			if strings.ContainsAny(a, "\x00\n") {
				t.Fatalf("%q: argv %q", line, c.Argv)
			}
		}
		if c.Expand {
			return // the shell would split values
		}
		// printf writes its arguments one a line; the line itself is only words, so it can stand behind it.
		out, err := exec.Command(sh, "-c", "printf '%s\\n' "+line).Output()
		if err != nil {
			t.Fatalf("%q: the shell refuses what was split to %q: %v", line, c.Argv, err)
		}
		if got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"); !slices.Equal(got, c.Argv) {
			t.Fatalf("%q: the shell's words are %q, ours %q", line, got, c.Argv)
		}
	})
}

func TestParseProcfile(t *testing.T) {
	got, err := parseProcfile("Procfile", "\ufeff# comment\r\n\r\nweb: ./a $X\r\nworker : ./b && ./c\nrelease:./m")
	want := map[bulwark.ProcessType]bulwark.Command{
		"web": {Argv: []string{"./a", "${X}"}, Expand: true}, "worker": {Argv: []string{"/bin/sh", "-c", "./b && ./c"}}, "release": {Argv: []string{"./m"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                      "Procfile names no process.",
		"# only\n":              "Procfile names no process.",
		"web ./a":               "Procfile:1: the line has no \":\"",
		"web: a\n\nWeb: b":      `Procfile:3: "Web" is not the name`,
		"web: a\nweb: b":        `Procfile:2: the process type "web" is there already, in line 1`,
		"web:":                  `Procfile:1: the process type "web": the command is empty`,
		"web: 'x":               "never closed",
		"x: y\nwo_rker: z":      "Procfile:2:",
		"web: a\n\x1b[2Jx: b\n": `Procfile:2: "\x1b[2Jx"`,
	} {
		if _, err := parseProcfile("Procfile", text); err == nil || !strings.Contains(err.Error(), want) || bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzProcfile(f *testing.F) {
	f.Add("web: a\nworker: b && c\n")
	f.Fuzz(func(t *testing.T, text string) {
		procs, err := parseProcfile("Procfile", text)
		if (err == nil) != (len(procs) > 0) {
			t.Fatalf("%q: %v, %v", text, procs, err)
		}
		for typ, c := range procs {
			if _, err := bulwark.ParseProcessType(string(typ)); err != nil || len(c.Argv) == 0 || c.Argv[0] == "" {
				t.Fatalf("%q: %q %+v", text, typ, c)
			}
		}
	})
}

const fullManifest = `# all there is
writable = ["/app/tmp", "/var/lib/app"]

[build]
dir = "backend/"
dockerfile = "docker/Dockerfile"
env = { A = "1", B = "two" }
secrets = ["NPM_TOKEN"]

[processes]
web = "./server --port $PORT"
worker = "./a && ./b"

[web]
health = "/healthz?full=1"
port = 3000

[timeouts]
first_byte = "2m"
idle = "90s"

[[cron]]
name = "cleanup"
schedule = "*/15  3,4 1-7 jan-mar MON"
command = "./cleanup"

[[cron]]
name = "report"
schedule = "0 0 * * 0"
command = "./report"
`

func TestParseManifest(t *testing.T) {
	m, err := parseManifest(fullManifest)
	if err != nil {
		t.Fatal(err)
	}
	if m.planner != "dockerfile" || m.dir != "backend" || m.dockerfile != "docker/Dockerfile" || m.env["B"] != "two" || !slices.Equal(m.secrets, []string{"NPM_TOKEN"}) {
		t.Errorf("%+v", m)
	}
	if p := m.plan; p.Health != "/healthz?full=1" || p.Port != 3000 || len(p.Writable) != 2 || len(p.Cron) != 2 || p.Cron[0].Schedule != "*/15 3,4 1-7 jan-mar MON" || p.FirstByte != bulwark.Duration(2*time.Minute) {
		t.Errorf("%+v", p)
	}
	if len(m.processes) != 2 || !m.processes["web"].Expand {
		t.Errorf("%+v", m.processes)
	}
	if m, err := parseManifest(""); err != nil || m.processes != nil {
		t.Errorf("an empty file: %+v, %v", m, err)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(fullManifest, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(fullManifest, old, new, 1)
	}
	for _, c := range []struct{ text, want string }{
		{replace("health =", "helth ="), `bulwark.toml:15: the key "web.helth" is not known`},
		{replace("[timeouts]", "[timeout]"), `bulwark.toml:18: the key "timeout`},
		{replace("command = \"./report\"", "comand = \"./report\""), "bulwark.toml:30: "},
		{replace("port = 3000", "port = 300000"), "bulwark.toml:16: 300000 is not a port"},
		{replace("port = 3000", "port = \"3000\""), "bulwark.toml:16: "},
		{replace("port = 3000", "port = "), "bulwark.toml:16: "},
		{replace("port = 3000", "port = 1\nport = 2"), "bulwark.toml:17: "},
		{replace(`dir = "backend/"`, `dir = "../x"`), `bulwark.toml:5: "../x" is not inside`},
		{replace(`dir = "backend/"`, `dir = "/etc"`), "bulwark.toml:5: "},
		{replace(`docker/Dockerfile`, `a/../../Dockerfile`), "bulwark.toml:6: "},
		{replace(`dir = "backend/"`, `planner = "ruby"`), `bulwark.toml:5: there is no planner "ruby"`},
		{replace(`dir = "backend/"`, `planner = "go"`), "bulwark.toml:6: a Dockerfile is named"},
		{replace(`A = "1"`, `PORT = "1"`), `bulwark.toml:7: "PORT" cannot be the name`},
		{replace(`A = "1"`, `NPM_TOKEN = "1"`), "bulwark.toml:8: NPM_TOKEN is a build secret and a build variable"},
		{replace(`"NPM_TOKEN"`, `"NPM-TOKEN"`), "bulwark.toml:8: "},
		{replace(`worker = "./a && ./b"`, `Worker = "x"`), `bulwark.toml:12: "Worker" is not the name`},
		{replace(`worker = "./a && ./b"`, `worker = "'x"`), "bulwark.toml:12: "},
		{replace(`"/healthz?full=1"`, `"healthz"`), "bulwark.toml:15: the health path"},
		{replace(`"90s"`, `"90"`), "bulwark.toml:20: "},
		{replace(`"/app/tmp"`, `"/etc/x"`), "bulwark.toml:2: "},
		{replace(`"/app/tmp"`, `"app/tmp"`), "bulwark.toml:2: "},
		{replace(`"/app/tmp"`, `"/app/../etc"`), "bulwark.toml:2: "},
		{replace(`"0 0 * * 0"`, `"0 0 * *"`), `bulwark.toml:29: the schedule "0 0 * *" has 4 fields`},
		{replace(`"0 0 * * 0"`, `"0 24 * * 0"`), `bulwark.toml:29: the schedule's hour "24"`},
		{replace(`name = "report"`, `name = "cleanup"`), `bulwark.toml:28: there is another cron job "cleanup"`},
		{replace(`command = "./report"`, ``), "bulwark.toml:27: the command is empty"},
		{"[web]\nwritable = [\"/x\"]", "stands above the first [table]"},
		{"[web]\nisolation = \"sandbox\"", "\"isolation\" stands above the first [table]"},
		{"isolation = \"strong\"", `bulwark.toml:1: there is no isolation "strong"`},
		{"\nisolation = \"\"", `bulwark.toml:2: there is no isolation ""`},
		{"[processes]\n", "bulwark.toml:1: [processes] names no process"},
	} {
		_, err := parseManifest(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%v\n\twant %q", err, c.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(fullManifest)
	f.Add("[build]\ndir = \"a\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseManifest(text)
		if err != nil {
			if bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for _, p := range []string{m.dir, m.dockerfile} {
			if strings.HasPrefix(p, "/") || hasDotDot(p) {
				t.Fatalf("%q: path %q", text, p)
			}
		}
		for _, p := range m.plan.Writable {
			if !strings.HasPrefix(p, "/") || hasDotDot(p) {
				t.Fatalf("%q: writable %q", text, p)
			}
		}
	})
}

func TestCheckSchedule(t *testing.T) {
	for _, s := range []string{"* * * * *", "0 0 1 1 0", "59 23 31 12 7", "*/5 * * * *", "0-30/10 8-18 * * mon-fri", "1,2,3 4 5 JAN,dec Sun"} {
		if err := checkSchedule(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "@daily", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *",
		"5/10 * * * *", "5-1 * * * *", "-1 * * * *", "+1 * * * *", "a * * * *", "1,,2 * * * *", "? * * * *", "* * L * *", "* * * foo *", "1- * * * *", "*/ * * * *", "٣ * * * *"} {
		if checkSchedule(s) == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttab": "plain\ttab", "\x1b[31mred\x1b[0m": "red", "\x1b]0;title\x07x": "x", "\x1b]8;;http://x\x1b\\link": "link", "a\x00b\x07c\x7fd": "abcd",
		"bad\xffbyte": "bad\ufffdbyte", "\u202eevil": "evil", "\u009bcsi": "csi", "trailing  ": "trailing", "\x1b": "", "\x1b[": "", "a\nb": "a b",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := clean(strings.Repeat("é", 5000)); len(got) > maxLine || !strings.HasSuffix(got, "é…") {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31mred\x1b]0;t\x07 \u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || len(got) > maxLine {
			t.Fatalf("%q", got)
		}
		for _, r := range got {
			if r != '\t' && unicode.IsControl(r) {
				t.Fatalf("%q: %q", s, got)
			}
		}
	})
}

func TestRedaction(t *testing.T) {
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END KEY-----\n"
	r := newRedactor(map[string]string{"A": "token-1", "B": "token-12345", "KEY": key, "SHORT": "yes", "EMPTY": ""})
	for in, want := range map[string]string{
		"a token-12345 b": "a [secret] b", "token-1 token-1": "[secret] [secret]", "yes": "yes", "x MIIEvQIBADANBgkqhkiG9w0BAQEFAASC y": "x [secret] y",
	} {
		if got := r.apply(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	// A value that begins just before a line's end is cut away as a whole or hidden, in whatever pieces it comes.
	for n := maxLine - 20; n < maxLine+20; n++ {
		for _, size := range []int{1, 7, 8192} {
			var got []string
			l := newLines(r, func(s string) { got = append(got, clean(r.apply(s))) })
			for rest := strings.Repeat("x", n) + "token-12345 and more\nnext\rlast\r\n"; rest != ""; {
				k := min(size, len(rest))
				l.write([]byte(rest[:k]))
				rest = rest[k:]
			}
			if text := strings.Join(got, "\n"); strings.Contains(text, "token") || !strings.HasSuffix(text, "last") {
				t.Fatalf("%d, %d: %q", n, size, text[len(text)-60:])
			}
		}
	}
}

func FuzzDockerfile(f *testing.F) {
	f.Add("FROM debian:12 AS a\nRUN --mount=type=cache,target=/x echo\nFROM a\nCOPY --from=a / /\n")
	f.Add("ARG V=1.26\nFROM golang:${V}\nRUN <<E\nx\nE\n")
	f.Add("# syntax=x\nFROM scratch")
	f.Fuzz(func(t *testing.T, text string) {
		c := dockerCheck{file: "Dockerfile"}
		images, err := c.run([]byte(text))
		if err != nil {
			if bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for _, i := range images {
			if i.base == "" {
				t.Fatalf("%q: %+v passes without a base, and no registry is allowed", text, i)
			}
		}
	})
}

func TestDockerImages(t *testing.T) {
	for text, want := range map[string]string{
		"FROM debian:12": "debian:12=debian",
		"FROM debian":    "debian=debian",
		"FROM docker.io/library/debian:bookworm-slim":          "debian:bookworm-slim=debian",
		"FROM golang:1.25.3-bookworm":                          "golang:1.25.3-bookworm=go",
		"FROM node:22-slim":                                    "node:22-slim=node",
		"FROM node:lts":                                        "node:lts=node-build",
		"FROM python:3.11-slim-bookworm":                       "python:3.11-slim-bookworm=python",
		"FROM bulwark/run":                                     "bulwark/run=run",
		"FROM scratch":                                         "",
		"ARG BASE=debian:12\nFROM ${BASE} AS x\nFROM x":        "debian:12=debian",
		"FROM registry.example.org/team/base:1":                "registry.example.org/team/base:1=",
		"FROM --platform=$BUILDPLATFORM golang:1 AS b":         "golang:1=go",
		"FROM debian:12 AS B\nFROM scratch\nCOPY --from=b / /": "debian:12=debian",
		"FROM debian:12\nFROM scratch\nCOPY --from=0 / /":      "debian:12=debian",
	} {
		c := dockerCheck{file: "Dockerfile", hosts: []string{"registry.example.org"}}
		images, err := c.run([]byte(text))
		var got []string
		for _, i := range images {
			got = append(got, i.context+"="+i.base)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"FROM nginx":                                    "Dockerfile:1: the image nginx cannot be had: it is not one of the platform's bases",
		"FROM debian:11":                                "the platform has Debian 12 only",
		"FROM golang:1.26-alpine":                       "the platform has no Alpine",
		"FROM node:18":                                  "the platform has Node.js 22 on Debian 12 only",
		"FROM python:3.12":                              "the platform has Python 3.11 on Debian 12 only",
		"FROM bulwark/builder":                          "the platform has no such base",
		"FROM evil.example.org/debian:12":               "bulwark registries allow evil.example.org",
		"FROM debian@sha256:" + strings.Repeat("a", 64): "fixed by digest",
		"FROM ${NOPE}":                                  "names no image",
		"FROM debian:12\nCOPY --from=later / /\nFROM debian:12 AS later": "Dockerfile:2: the image later cannot be had",
		"FROM --platform=linux/arm64 debian:12":                          `the platform "linux/arm64" is not built here`,
		"FROM debian:12\nRUN --mount=type=bind,from=$X true":             "Dockerfile:2: ",
		"":                       "Dockerfile",
		"RUN x":                  "Dockerfile:1",
		"FROM debian:12\nCOPY x": "Dockerfile:2",
	} {
		c := dockerCheck{file: "Dockerfile", hosts: []string{"registry.example.org"}}
		if _, err := c.run([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestGoProcesses(t *testing.T) {
	for _, c := range []struct {
		mains []goMain
		want  string
	}{
		{[]goMain{{".", "shop"}}, "map[web:shop]"},
		{[]goMain{{"./cmd/x", "x"}}, "map[web:x]"},
		{[]goMain{{"./cmd/server", "server"}, {"./cmd/mail_er", "mail_er"}}, "map[mail-er:mail_er web:server]"},
		{[]goMain{{".", "shop"}, {"./cmd/worker", "worker"}}, "map[web:shop worker:worker]"},
		{[]goMain{{".", "shop"}, {"./cmd/web", "web"}}, "map[shop:shop web:web]"},
		{[]goMain{{"./cmd/shop", "shop"}, {"./cmd/tool", "tool"}}, "map[tool:tool web:shop]"},
		{[]goMain{{"./cmd/a", "a"}, {"./cmd/b", "b"}, {"./cmd/9", "9"}}, "map[a:a b:b]"},
	} {
		got := map[string]string{}
		for typ, cmd := range goProcesses("example.com/shop", c.mains) {
			got[string(typ)] = strings.TrimPrefix(cmd.Argv[0], "/app/bin/")
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v: %v, want %s", c.mains, got, c.want)
		}
	}
}

func TestInput(t *testing.T) {
	const setup = `{"state":"s","output":"o","bases":"b"}` + "\n"
	read := func(text string) (*bulwark.BuildSetup, *bulwark.BuildJob, map[string]string, error) {
		in := newInput(strings.NewReader(text))
		s, err := in.setup()
		if err != nil {
			return nil, nil, nil, err
		}
		j, secrets, err := in.job()
		return s, j, secrets, err
	}
	for in, want := range map[string]string{
		"":                              "read the builder's setup",
		"{}\n":                          "lacks a directory",
		"{\n{}\n":                       "setup is not well formed",
		setup:                           "no job came",
		setup + "{}\n":                  "read the line of build secrets",
		setup + "{}\n{}\n":              "names no source, or two",
		setup + "{\n{}\n":               "build job is not well formed",
		setup + "{}\n{\"A\": secret}\n": "not well formed",
		setup + `{"source":"s","secrets":["A"]}` + "\n{}\n": "the build secret A has no value",
	} {
		if _, _, _, err := read(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), ": secret") {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	s, j, secrets, err := read(setup + `{"source":"src","secrets":["A"]}` + "\n" + `{"A":"v"}`)
	if err != nil || s.State != "s" || j.Source != "src" || secrets["A"] != "v" {
		t.Errorf("%+v %+v %v %v", s, j, secrets, err)
	}
}

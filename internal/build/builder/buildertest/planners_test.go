package buildertest_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
)

func TestStatic(t *testing.T) {
	app := newApp(t)
	out := built(t, app, buildertest.Build{Source: example(t, "static-hello")})
	answers(t, app, out, "/", "Hello, world!")
	answers(t, app, out, "/nope", "404 Not Found <!doctype html>")
	out = built(t, app, buildertest.Build{Source: files(t, map[string]string{"index.html": "root site", ".env": "KEY=1", "bulwark.toml": "[web]\nhealth = \"/\"\n"})})
	answers(t, app, out, "/", "200 OK root site")
	answers(t, app, out, "/bulwark.toml", "404")

	// A day after, the cache is pruned when the result is out; what fits stays.
	marker := app.State + "/pruned"
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(marker, old, old); err != nil {
		t.Fatal(err)
	}
	src := example(t, "static-hello")
	contains(t, built(t, app, buildertest.Build{Source: src}).Stderr, "pruned")
	if fi, err := os.Stat(marker); err != nil || time.Since(fi.ModTime()) > time.Hour {
		t.Errorf("the marker is not new: %v", err)
	}
	containsNot(t, built(t, app, buildertest.Build{Source: src}).Stderr, "pruned")
}

func TestPython(t *testing.T) {
	app := newApp(t)
	out := built(t, app, buildertest.Build{Source: example(t, "python-hello")})
	answers(t, app, out, "/", "Moin, world!", "GREETING=Moin")
	src := files(t, map[string]string{"requirements.txt": "", "app.py": "", "Procfile": "web: python3 app.py", ".python-version": "# ours\n3.12.1\n"})
	failed(t, app, buildertest.Build{Source: src}, bulwark.KindInvalid, `.python-version:2: the version "3.12.1" is asked for`)
	os.Remove(src + "/.python-version")
	os.Remove(src + "/Procfile")
	failed(t, app, buildertest.Build{Source: src}, bulwark.KindInvalid, "Name the processes in a Procfile")
}

func TestNode(t *testing.T) {
	app := newApp(t)
	t.Run("example", func(t *testing.T) {
		src := example(t, "node-hello")
		out := built(t, app, buildertest.Build{Source: src})
		answers(t, app, out, "/", "Hello, world! Up for")
		write(t, src+"/server.js", "require('node:http').createServer((q, r) => r.end('edited ' + require('ms')(60000))).listen(process.env.PORT)")
		again := built(t, app, buildertest.Build{Source: src})
		contains(t, again.Log(), "npm ci --omit=dev (unchanged)")
		answers(t, app, again, "/", "edited 1m")
	})
	// A build script has the development dependencies, the image has not.
	const lock = `{"name":"b","lockfileVersion":3,"requires":true,"packages":{"":{"name":"b","dependencies":{"ms":"2.1.3"},"devDependencies":{"has-flag":"4.0.0"}},
"node_modules/ms":{"version":"2.1.3","integrity":"sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="},
"node_modules/has-flag":{"version":"4.0.0","dev":true,"integrity":"sha512-EykJT/Q1KjTWctppgIAgfSO0tKVuZUjhgMr17kqTumMl6Afv3EISleU7qZUzoXDFTAHTDC4NOoG/ZxU3EvlMPQ=="}}}`
	const build = `require('has-flag'); require('fs').mkdirSync('dist'); require('fs').writeFileSync('dist/app.js',
"const fs = require('fs'); require('http').createServer((q, r) => r.end(process.version + ' dev:' + fs.existsSync('node_modules/has-flag') + ' ' + require('ms')(60000) + ' " + (process.env.NPM_TOKEN || 'no token').length + process.env.COLOUR + "')).listen(process.env.PORT)")`
	for name, scripts := range map[string]string{"apart": `"build":"node build.js"`, "in place": `"build":"node build.js","postinstall":"node -e 0"`} {
		t.Run("build script, "+name, func(t *testing.T) {
			src := files(t, map[string]string{
				"package.json":      `{"name":"b","scripts":{` + scripts + `,"start":"node dist/app.js"},"dependencies":{"ms":"2.1.3"},"devDependencies":{"has-flag":"4.0.0"}}`,
				"package-lock.json": lock, "build.js": build, "bulwark.toml": "[build]\nsecrets = [\"NPM_TOKEN\"]\nenv = { COLOUR = \"blue\" }\n",
			})
			out := built(t, app, buildertest.Build{Source: src, Secrets: map[string]string{"NPM_TOKEN": "0123456789"}})
			answers(t, app, out, "/", "dev:false 1m 10blue")
		})
	}
	const ms = "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="
	const hasFlag = "sha512-EykJT/Q1KjTWctppgIAgfSO0tKVuZUjhgMr17kqTumMl6Afv3EISleU7qZUzoXDFTAHTDC4NOoG/ZxU3EvlMPQ=="
	const pnpmLock = "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\nimporters:\n\n  .:\n" +
		"    dependencies:\n      ms:\n        specifier: 2.1.3\n        version: 2.1.3\n    devDependencies:\n      has-flag:\n        specifier: 4.0.0\n        version: 4.0.0\n\n" +
		"packages:\n\n  has-flag@4.0.0:\n    resolution: {integrity: " + hasFlag + "}\n    engines: {node: '>=8'}\n\n  ms@2.1.3:\n    resolution: {integrity: " + ms + "}\n\n" +
		"snapshots:\n\n  has-flag@4.0.0: {}\n\n  ms@2.1.3: {}\n"
	// Yarn 1 writes the host of a registry that this build does not use.
	const yarn1Lock = "# yarn lockfile v1\n\n\nhas-flag@4.0.0:\n  version \"4.0.0\"\n  resolved \"https://packages.example.org/has-flag/-/has-flag-4.0.0.tgz\"\n  integrity " + hasFlag +
		"\n\nms@2.1.3:\n  version \"2.1.3\"\n  resolved \"https://packages.example.org/ms/-/ms-2.1.3.tgz\"\n  integrity " + ms + "\n"
	const yarn4Lock = "# This file is generated by running \"yarn install\" inside your project.\n# Manual changes might be lost - proceed with caution!\n\n__metadata:\n  version: 8\n  cacheKey: 10c0\n\n" +
		"\"b@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"b@workspace:.\"\n  dependencies:\n    has-flag: \"npm:4.0.0\"\n    ms: \"npm:2.1.3\"\n  languageName: unknown\n  linkType: soft\n\n" +
		"\"has-flag@npm:4.0.0\":\n  version: 4.0.0\n  resolution: \"has-flag@npm:4.0.0\"\n  checksum: 10c0/2e789c61b7888d66993e14e8331449e525ef42aac53c627cc53d1c3334e768bcb6abdc4f5f0de1478a25beec6f0bd62c7549058b7ac53e924040d4f301f02fd1\n  languageName: node\n  linkType: hard\n\n" +
		"\"ms@npm:2.1.3\":\n  version: 2.1.3\n  resolution: \"ms@npm:2.1.3\"\n  checksum: 10c0/d924b57e7312b3b63ad21fc5b3dc0af5e78d61a1fc7cfb5457edaf26326bf62be5307cc87ffb6862ef1c2b33b0233cdb5d4f01c4c958cc0d660948b65a287a48\n  languageName: node\n  linkType: hard\n"
	for _, c := range []struct{ name, extra, file, lock, says string }{
		{"pnpm", "", "pnpm-lock.yaml", pnpmLock, "pnpm install --frozen-lockfile --prod=true"},
		{"pnpm in place", `"packageManager":"pnpm@10.12.1",`, "pnpm-lock.yaml", pnpmLock, "Installing with pnpm@10.12.1"},
		{"yarn 1", "", "yarn.lock", yarn1Lock, "yarn install --frozen-lockfile"},
		{"yarn 1 in place", `"private":true,"workspaces":[],`, "yarn.lock", yarn1Lock, "yarn install --frozen-lockfile"},
		{"yarn 4", "", "yarn.lock", yarn4Lock, "yarn install --immutable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := map[string]string{
				"package.json": `{"name":"b",` + c.extra + `"scripts":{"build":"node build.js","start":"node dist/app.js"},"dependencies":{"ms":"2.1.3"},"devDependencies":{"has-flag":"4.0.0"}}`,
				c.file:         c.lock, "build.js": build, "bulwark.toml": "[build]\nsecrets = [\"NPM_TOKEN\"]\nenv = { COLOUR = \"blue\" }\n",
			}
			if strings.Contains(c.extra, "pnpm@10") {
				tree["pnpm-workspace.yaml"] = "packages:\n  - .\n"
			}
			out := built(t, app, buildertest.Build{Source: files(t, tree), Secrets: map[string]string{"NPM_TOKEN": "0123456789"}})
			contains(t, out.Log(), c.says)
			answers(t, app, out, "/", "dev:false 1m 10blue")
		})
	}
	t.Run("another version", func(t *testing.T) {
		src := files(t, map[string]string{"package.json": `{"engines":{"node":"20.x"},"scripts":{"start":"node a.js"}}`, "package-lock.json": `{"lockfileVersion":3,"packages":{}}`,
			"a.js": "require('http').createServer((q, r) => r.end(process.version)).listen(process.env.PORT)"})
		out := built(t, app, buildertest.Build{Source: src})
		answers(t, app, out, "/", "v20.")
	})
	t.Run("mistakes", func(t *testing.T) {
		for want, tree := range map[string]map[string]string{
			"package.json:2: the file is not well formed":        {"package.json": "{\n\"name\": }"},
			"There is a lock file of Bun":                        {"package.json": "{}", "bun.lock": ""},
			"yarn.lock is of Yarn 2 or 3":                        {"package.json": "{}", "yarn.lock": "# x\n\n__metadata:\n  version: 6\n"},
			"and yarn.lock is of another Yarn":                   {"package.json": `{"packageManager":"yarn@4.12.0"}`, "yarn.lock": "# yarn lockfile v1\n"},
			`packageManager is "yarn@1.22.22", and yarn.lock is`: {"package.json": `{"packageManager":"yarn@1.22.22"}`, "yarn.lock": "# x\r\n\r\n__metadata:\r\n  version: 8\r\n"},
			"does not tell which version of pnpm":                {"package.json": "{}", "pnpm-lock.yaml": "lockfileVersion: 5.4\n"},
			`packageManager is "yarn@4.9.4", and the lock file`:  {"package.json": `{"packageManager":"yarn@4.9.4"}`, "pnpm-lock.yaml": "lockfileVersion: '9.0'\n"},
			`packageManager "pnpm@latest" is not a name and`:     {"package.json": `{"packageManager":"pnpm@latest"}`, "pnpm-lock.yaml": "lockfileVersion: '9.0'\n"},
			`the "start" script runs pnpm`:                       {"package.json": `{"scripts":{"start":"pnpm serve"}}`, "pnpm-lock.yaml": "lockfileVersion: '9.0'\n"},
			`engines.node "latest" is not a range of versions`:   {"package.json": `{"engines":{"node":"latest"}}`},
			`Add a "start" script to package.json`:               {"package.json": "{}", "package-lock.json": `{"lockfileVersion":3,"packages":{}}`},
			"bulwark.toml:1: the build secret NOPE is not set":   {"package.json": "{}", "bulwark.toml": `build.secrets = ["NOPE"]`},
			`Procfile:2: the process type "web": the command is`: {"package.json": "{}", "Procfile": "# x\nweb:   \n"},
		} {
			failed(t, app, buildertest.Build{Source: files(t, tree)}, bulwark.KindInvalid, want)
		}
	})
}

func TestDockerfile(t *testing.T) {
	app := newApp(t)
	t.Run("steps, secrets and user", func(t *testing.T) {
		src := files(t, map[string]string{
			"Dockerfile": "ARG V=12\nFROM debian:${V}-slim AS base\nRUN id -u > /who\n" +
				"FROM base\nCOPY --from=base /who /who2\nARG COLOUR\nRUN --mount=type=secret,id=TOKEN wc -c < /run/secrets/TOKEN > /len && cat /run/secrets/TOKEN && echo \"$COLOUR\" > /colour\n" +
				"RUN test ! -e /run/secrets/TOKEN\nUSER root\nEXPOSE 3000\nHEALTHCHECK CMD true\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"a\", \"b c\"]\n",
			"bulwark.toml": "build.env = { COLOUR = \"blue\" }\n",
		})
		out := built(t, app, buildertest.Build{Source: src, Secrets: map[string]string{"TOKEN": "very-secret-value"}})
		contains(t, out.Log(), `FROM debian:12-slim is the platform's base "debian" (Debian 12)`)
		contains(t, out.Log(), "Dockerfile:11: HEALTHCHECK is not used")
		contains(t, out.Log(), "[secret]")
		containsNot(t, out.Stdout+out.Stderr, "very-secret-value")
		p := out.Result.Plan
		if p.Port != 3000 || strings.Join(p.Processes["web"].Argv, "|") != "/bin/echo|a|b c" {
			t.Errorf("plan %+v", p)
		}
		img, err := buildertest.ReadImage(app.Output, out.Result.Image)
		if err != nil || img.Config.Config.User != "1000:1000" {
			t.Errorf("user %q, %v", img.Config.Config.User, err)
		}
		if got := imageFile(t, app, out, "len") + imageFile(t, app, out, "who2") + imageFile(t, app, out, "colour"); got != "17\n0\nblue\n" {
			t.Errorf("files %q", got)
		}
		// The same size and time: only the content tells.
		fi, _ := os.Stat(src + "/Dockerfile")
		text, _ := os.ReadFile(src + "/Dockerfile")
		write(t, src+"/Dockerfile", strings.Replace(string(text), "EXPOSE 3000", "EXPOSE 3001", 1))
		os.Chtimes(src+"/Dockerfile", fi.ModTime(), fi.ModTime())
		if out := built(t, app, buildertest.Build{Source: src, Secrets: map[string]string{"TOKEN": "very-secret-value"}}); out.Result.Plan.Port != 3001 {
			t.Errorf("port %d after an edit", out.Result.Plan.Port)
		}
	})
	t.Run("mistakes", func(t *testing.T) {
		for text, want := range map[string]string{
			"FROM bulwark/run\nRUN false\nCMD [\"x\"]":           `RUN false" failed with exit code 1`,
			"FROM bulwark/run\nCOPY nope /\nCMD [\"x\"]":         "Dockerfile:2: ",
			"FROM bulwark/run\nRUN true":                         "The image does not say what it runs",
			"FROM bulwark/run\nRUN --network=host true":          "Dockerfile:2: RUN --network=host is not allowed",
			"FROM bulwark/run\nRUN --security=insecure true":     "Dockerfile:2: RUN --security=insecure is not allowed",
			"FROM bulwark/run AS a\nFROM nginx\nCMD [\"x\"]":     "Dockerfile:2: the image nginx cannot be had",
			"FROM bulwark/run\nCOPY --from=alpine:3 / /":         "Dockerfile:2: the image alpine:3 cannot be had",
			"FROM bulwark/run\nRUN --mount=from=busybox true":    "Dockerfile:2: the image busybox cannot be had",
			"# syntax=docker/dockerfile:1\nFROM bulwark/run":     "Dockerfile:1: \"# syntax=docker/dockerfile:1\" asks for another builder",
			"FROM bulwark/run\n\nRUNN x":                         "Dockerfile:3: ",
			"FROM bulwark/run\nADD http://192.0.2.1/x /x\nCMD x": "invalid response status 403",
		} {
			src := files(t, map[string]string{"Dockerfile": text})
			out := run(t, app, buildertest.Build{Source: src})
			if out.Code != 1 || out.Error == nil || !strings.Contains(out.Error.Message, want) {
				t.Errorf("%q: exit code %d, error %v, want %q\n%s", text, out.Code, out.Error, want, out.Stderr)
			}
		}
	})
	t.Run("example", func(t *testing.T) {
		out := built(t, app, buildertest.Build{Source: example(t, "dockerfile-hello")})
		answers(t, app, out, "/", "Hello, world!")
	})
}

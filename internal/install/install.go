// Package install knows what an installation of Bulwark is: one root folder, one name, a range of user ids of its own,
// its ports, and the table of every directory and socket with owner and mode.
//
// It promises that two installations on one machine share nothing: the id range is taken from the machine's register of
// subordinate ids (subuid(5)), where useradd, podman and LXD look too; a directory that is a symbolic link or that a
// stranger owns is refused and never followed; and Remove leaves nothing behind. All of it runs as root, at the start of
// the supervisor. Whoever owns this package owns the machine: it decides what root creates, for whom, and what root
// deletes. It reads no network and trusts one file, installation.json, which only root can write.
package install

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Defaults of an installation.
const (
	DefaultName   bulwark.InstallationName = "main"
	DefaultRoot                            = "/var/lib/bulwark"
	DefaultDomain bulwark.HostName         = "bulwark.localhost"
	DefaultEngine                          = "/usr/libexec/bulwark"
	// DefaultBlocks is how many blocks of 65536 ids an installation gets: one for the platform, one per app or builder.
	DefaultBlocks = 4096
)

// Installation is one installation of Bulwark on a machine. It is written once to installation.json and read by every
// process; it holds no secret.
type Installation struct {
	Format    int                      `json:"format"`
	Name      bulwark.InstallationName `json:"name"`
	Root      string                   `json:"root"`
	IDs       Range                    `json:"ids"` // user ids, and group ids alike
	Ports     Ports                    `json:"ports"`
	Listen    Listen                   `json:"listen"`
	Domain    bulwark.HostName         `json:"domain"`
	EngineBin string                   `json:"engine_bin"`    // directory of runc, the shim, buildkitd
	Bases     string                   `json:"bases"`         // directory with an OCI layout per base image
	Etc       string                   `json:"etc,omitempty"` // where subuid is, if not /etc
	// BuildDisk is how many MB of disk the builds of one app may use, 0 for the node's default.
	BuildDisk uint32 `json:"build_disk,omitempty"`
	// KeyAge is how old a project's key becomes, in nanoseconds, 0 for the node's default.
	KeyAge time.Duration `json:"key_age,omitempty"`
	// Probes says when the probes run.
	Probes Probes `json:"probes,omitempty"`
	// Grace is how long an app that was destroyed can be brought back.
	Grace Grace `json:"grace,omitempty"`
	// ACME says who issues certificates for claimed host names.
	ACME ACME `json:"acme,omitzero"`
	// NameServer is who is asked whose a claimed host name is: "ADDRESS:PORT" or HostNameServer.
	NameServer string `json:"name_server,omitempty"`
	// Upstreams says which proxies stand in front of the edge.
	Upstreams Upstreams `json:"upstreams,omitzero"`
}

// Grace is a time from 0 to MaxGrace, as time.ParseDuration reads it; empty means DefaultGrace. It is text, so that "not said"
// and "none" are two things.
type Grace string

// What graces there are.
const (
	DefaultGrace = 7 * 24 * time.Hour
	MaxGrace     = 90 * 24 * time.Hour
)

// ParseGrace checks s.
func ParseGrace(s string) (Grace, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The grace %q cannot be read.", s), "Give a number and a unit, such as 168h for a week, or 0 for none.", err)
	}
	if d < 0 || d > MaxGrace {
		return "", bulwark.Invalid(fmt.Sprintf("A grace is from 0 to %.0fh, which is 90 days; %s is not.", MaxGrace.Hours(), s), "")
	}
	return Grace(d.String()), nil
}

// Duration returns how long it is.
func (g Grace) Duration() time.Duration {
	if g == "" {
		return DefaultGrace
	}
	d, err := time.ParseDuration(string(g))
	if err != nil { // valid has looked; if something else wrote it, nothing may end too soon
		return MaxGrace
	}
	return d
}

// Probes says when the probes of bulwark posture run.
type Probes string

// The choices; empty is by their periods.
const (
	ProbesOnSchedule Probes = "schedule"
	ProbesWhenAsked  Probes = "asked"
)

// ParseProbes checks s.
func ParseProbes(s string) (Probes, error) {
	if p := Probes(s); p == ProbesOnSchedule || p == ProbesWhenAsked {
		return p, nil
	}
	return "", bulwark.Invalid(fmt.Sprintf("Probes run by \"schedule\" or when \"asked\", not %q.", s), "")
}

// APIAddress is where a program on this machine reaches the API, by a name that its certificate has.
func (i *Installation) APIAddress() string {
	host := "localhost"
	if a := i.Listen.Operator; a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() {
		host = string(i.Domain)
	}
	return fmt.Sprintf("https://%s:%d", host, i.Ports.API)
}

// Ports are the TCP ports of an installation.
type Ports struct {
	HTTP  uint16 `json:"http"`
	HTTPS uint16 `json:"https"`
	API   uint16 `json:"api"`
	SSH   uint16 `json:"ssh"`
}

// Declared are the ports that an installation has open on the host, by what is there; no other is.
func (i *Installation) Declared() map[string]uint16 {
	return map[string]uint16{"http": i.Ports.HTTP, "https": i.Ports.HTTPS, "api": i.Ports.API, "git": i.Ports.SSH}
}

// Listen says on which addresses the ports are. An installation whose domain is below "localhost" listens on 127.0.0.1
// alone unless told otherwise, because nobody else can reach its names; any other listens on all addresses ("::" takes
// IPv4 too).
type Listen struct {
	Public   netip.Addr `json:"public"`   // HTTP and HTTPS
	Operator netip.Addr `json:"operator"` // API and SSH
}

// Options are what `bulwark up` may be told; a zero field keeps what the installation has, or takes the default.
type Options struct {
	Name       bulwark.InstallationName
	Root       string
	Ports      Ports
	Listen     Listen
	Domain     bulwark.HostName
	EngineBin  string
	Bases      string
	Blocks     uint32 // of 65536 ids; only at the first time
	BuildDisk  uint32 // MB
	KeyAge     time.Duration
	Probes     Probes
	Grace      Grace
	ACME       ACME
	NameServer string
	Upstreams  Upstreams
	// Etc replaces /etc as the place of subuid, subgid, passwd and group: for tests, and for building an image.
	Etc string
}

// Between what a key's greatest age may be chosen. The longest is ten years.
const (
	minKeyAge = time.Hour
	maxKeyAge = 10 * 365 * 24 * time.Hour
)

const (
	format   = 1
	fileName = "installation.json"
)

// Create makes the installation that opt describes, or brings the one that is already there into line with it: folders
// with their owners and modes, the id range, installation.json. It is idempotent and safe to run twice at once.
func Create(opt Options) (*Installation, error) {
	root := opt.Root
	if root == "" {
		root = DefaultRoot
	}
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	if err := makeRoot(root); err != nil {
		return nil, err
	}
	unlock, err := lockDir(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	inst, err := existing(root)
	if err != nil {
		return nil, err
	}
	if err := inst.merge(opt); err != nil {
		return nil, err
	}
	if err := inst.Layout().check(root); err != nil {
		return nil, err
	}
	blocks := opt.Blocks
	if blocks == 0 {
		blocks = DefaultBlocks
	}
	// The file is written while the register is locked and before the entry is made. So an entry without a file
	// belongs to somebody else, and a crash between the two is healed by the next run.
	_, err = inst.register().claim(inst.account(), inst.IDs, blocks*BlockSize, func(r Range) error {
		inst.IDs = r
		return inst.save()
	})
	if err != nil {
		return nil, err
	}
	return inst, inst.Check()
}

// Open reads the installation at root. Every user may: the file holds no secret.
func Open(root string) (*Installation, error) {
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	inst, err := existing(root)
	if err != nil {
		return nil, err
	}
	if inst.Format == 0 {
		return nil, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no installation at %s.", root),
			"Start one with: bulwark up --root "+root, nil)
	}
	return inst, inst.valid()
}

// existing reads installation.json, or returns an empty installation if there is none.
func existing(root string) (*Installation, error) {
	inst := &Installation{Root: root}
	err := readTrusted(filepath.Join(root, fileName), inst)
	if os.IsNotExist(err) {
		return inst, nil
	}
	if err != nil {
		return nil, err
	}
	if inst.Format != format {
		return nil, bulwark.Failf(bulwark.KindConflict,
			"The installation at %s was made by another version of Bulwark (format %d, this one knows %d).", root, inst.Format, format)
	}
	if inst.Root != root {
		return nil, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The installation at %s says that it lives at %s.", root, inst.Root),
			"An installation cannot be moved; use the path that it was made with.", nil)
	}
	return inst, nil
}

// merge applies opt to a new or existing installation.
func (i *Installation) merge(opt Options) error {
	if i.Format != 0 && opt.Name != "" && opt.Name != i.Name {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The installation at %s is named %s, not %s.", i.Root, i.Name, opt.Name),
			"Choose another root for another installation.", nil)
	}
	i.Format = format
	set(&i.Name, opt.Name, DefaultName)
	set(&i.Domain, opt.Domain, DefaultDomain)
	set(&i.EngineBin, opt.EngineBin, DefaultEngine)
	set(&i.Bases, opt.Bases, i.BasesDir())
	set(&i.Etc, opt.Etc, "")
	set(&i.BuildDisk, opt.BuildDisk, 0)
	set(&i.KeyAge, opt.KeyAge, 0)
	set(&i.Probes, opt.Probes, ProbesOnSchedule)
	set(&i.Grace, opt.Grace, Grace(DefaultGrace.String()))
	set(&i.ACME.Directories, opt.ACME.Directories, DefaultAuthority)
	set(&i.ACME.Email, opt.ACME.Email, "")
	set(&i.ACME.Roots, opt.ACME.Roots, "")
	set(&i.ACME.Accounts, opt.ACME.Accounts, "")
	set(&i.ACME.DNS, opt.ACME.DNS, "")
	set(&i.ACME.DNSKey, opt.ACME.DNSKey, "")
	set(&i.Upstreams.From, opt.Upstreams.From, NoUpstreams)
	if opt.Upstreams.From != "" && opt.Upstreams.Header == "" { // whoever is named anew says it in their own way
		opt.Upstreams.Header = opt.Upstreams.usualHeader()
	}
	set(&i.Upstreams.Header, opt.Upstreams.Header, ClientHeaders()[0])
	set(&i.Upstreams.Proxy, opt.Upstreams.Proxy, Off)
	set(&i.Upstreams.Only, opt.Upstreams.Only, Off)
	set(&i.Upstreams.CA, opt.Upstreams.CA, bulwark.ClientCAOff)
	set(&i.NameServer, opt.NameServer, HostNameServer)
	set(&i.Ports.HTTP, opt.Ports.HTTP, 80)
	set(&i.Ports.HTTPS, opt.Ports.HTTPS, 443)
	set(&i.Ports.API, opt.Ports.API, 8443)
	set(&i.Ports.SSH, opt.Ports.SSH, 2222)
	listen := netip.IPv6Unspecified()
	if i.Domain == "localhost" || strings.HasSuffix(string(i.Domain), ".localhost") {
		listen = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	set(&i.Listen.Public, opt.Listen.Public, listen)
	set(&i.Listen.Operator, opt.Listen.Operator, listen)
	if err := i.valid(); err != nil {
		return err
	}
	return i.ACME.checkSecrets()
}

// set puts the wish, else what is there, else the default.
func set[T comparable](dst *T, wish, def T) {
	var zero T
	if wish != zero {
		*dst = wish
	}
	if *dst == zero {
		*dst = def
	}
}

// valid checks what was read or merged.
func (i *Installation) valid() error {
	if _, err := bulwark.ParseInstallationName(string(i.Name)); err != nil {
		return err
	}
	for _, dir := range []string{i.EngineBin, i.Bases} {
		if err := checkPath(dir); err != nil {
			return err
		}
	}
	if i.ACME != (ACME{}) {
		if err := i.ACME.check(); err != nil {
			return err
		}
	}
	if err := i.Upstreams.check(); err != nil {
		return err
	}
	if err := checkNameServer(i.NameServer); err != nil {
		return err
	}
	if i.BuildDisk != 0 && i.BuildDisk < 256 {
		return bulwark.Invalid(fmt.Sprintf("A disk of %d MB is too small for any build.", i.BuildDisk), "Give at least 256 with --build-disk.")
	}
	if i.Grace != "" {
		if _, err := ParseGrace(string(i.Grace)); err != nil {
			return err
		}
	}
	if i.KeyAge != 0 && (i.KeyAge < minKeyAge || i.KeyAge > maxKeyAge) {
		return bulwark.Invalid(fmt.Sprintf("Keys of projects cannot be changed every %s.", i.KeyAge), "Give between 1h and 87600h with --key-age.")
	}
	seen := map[uint16]string{}
	for _, p := range []struct {
		flag string
		port uint16
	}{{"--http-port", i.Ports.HTTP}, {"--https-port", i.Ports.HTTPS}, {"--api-port", i.Ports.API}, {"--ssh-port", i.Ports.SSH}} {
		if other := seen[p.port]; other != "" || p.port == 0 {
			return bulwark.Invalid(fmt.Sprintf("Port %d cannot be taken for %s.", p.port, p.flag),
				"Give four different ports with --http-port, --https-port, --api-port and --ssh-port.")
		}
		seen[p.port] = p.flag
	}
	return nil
}

func (i *Installation) save() error { return writeFile(filepath.Join(i.Root, fileName), i, 0o644) }

// account is the name of the installation in the register of ids, of its router namespace and of its control groups.
func (i *Installation) account() string { return "bulwark-" + string(i.Name) }

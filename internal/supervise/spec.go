package supervise

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"golang.org/x/sys/unix"
)

// Spec says how one process runs.
type Spec struct {
	Name string
	// Path, if set, is started instead of Config.Binary. Args do not hold the program's own name.
	Path string
	Args []string
	// Env is added to the small environment that every process gets.
	Env []string
	// User is user id and group id. No supplementary groups.
	User uint32
	// Caps are the capabilities that it keeps, as ambient ones. All others are gone for good: from the bounding set too.
	Caps []uintptr
	// Privileged, for node, containerd and posture only, leaves capabilities and set-uid programs as root has them.
	Privileged bool
	// Prompt has it run soon when it has something to do, for turns that are short: requests go through it.
	Prompt bool
	// Apart has it begin in an empty network namespace of its own, where it reaches nothing: what it serves or enters it is handed.
	Apart bool
	// Forget changes a line of the process's log so that what is not to be kept for longer is gone, without changing its length; nil: all is kept.
	Forget func(line []byte, now time.Time) bool `json:"-"`
	// Threads bounds threads and processes of the user, 0 for no bound.
	Threads uint64

	Listeners []Listener
	// Store is how many descriptors the process may leave with the supervisor.
	Store int
	// Overlap has a restart start the new process before the old one is stopped. Both then accept.
	Overlap bool
	// Keep has a process that an earlier supervisor left run on as it is; others are replaced.
	Keep bool
	// Grace is the time between SIGTERM and SIGKILL, default 10 s. Boot is how long a new process may take to say that
	// it is ready before a restart is called failed, default 30 s.
	Grace, Boot time.Duration
}

// Listener is a socket that the supervisor makes for a process.
type Listener struct {
	Name    string // in LISTEN_FDNAMES
	Network string // "tcp", "udp", "unix" or "unixpacket"
	Address string // "host:port", or an absolute path
	// Flag is the flag of `bulwark up` that changes the port, for the message when it is taken.
	Flag string
	// Owner and Mode of a unix socket.
	Owner uint32
	Mode  fs.FileMode
}

// unix says that it is a socket in the file system.
func (l Listener) unix() bool { return l.Network == "unix" || l.Network == "unixpacket" }

// valid checks what would break the contract with the children; a failure is a mistake of ours.
func (s Spec) valid() error {
	bad := func(why string) error { return fmt.Errorf("supervise: process %q: %s", s.Name, why) }
	if s.Name == "" || strings.ContainsAny(s.Name, "/\x00") {
		return bad("has no proper name")
	}
	if s.Path != "" && !filepath.IsAbs(s.Path) {
		return bad("path is not absolute")
	}
	if (s.User == 0) != s.Privileged {
		return bad("root and only root is privileged")
	}
	if s.Apart && s.Privileged {
		return bad("root leaves any network namespace")
	}
	seen := map[string]bool{}
	for _, l := range s.Listeners {
		if !validName(l.Name) || seen[l.Name] {
			return bad("listener names must be plain and different")
		}
		seen[l.Name] = true
		if l.unix() && len(l.Address) > 107 {
			return bulwark.Invalid(fmt.Sprintf("The socket path %s is longer than 107 characters.", l.Address), "Choose a shorter root.")
		}
	}
	return nil
}

// validName holds for names in LISTEN_FDNAMES (sd_listen_fds_with_names(3)): printable ASCII without ":", up to 255.
func validName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return true
}

func (s Spec) grace() time.Duration { return orElse(s.Grace, 10*time.Second) }
func (s Spec) boot() time.Duration  { return orElse(s.Boot, 30*time.Second) }

func orElse(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// Extra is what the environment of `bulwark up` adds to the table; only cmd reads the environment.
type Extra struct {
	SSLCertFile string // for the processes that talk to the internet on their own account: node, egress, certs
}

// Table returns the processes of an installation, in the order of their start. All sockets are made before any process
// runs, so the order is a preference and no more.
func Table(inst *install.Installation, x Extra) []Spec {
	unixSocket := func(name string, s install.Socket) Listener {
		e := inst.SocketEntry(s)
		return Listener{Name: name, Network: "unix", Address: e.Path, Owner: e.Owner, Mode: e.Mode.Perm()}
	}
	// Descriptors travel in packets; streams are for requests (fdpass).
	packets := func(name string, s install.Socket) Listener {
		l := unixSocket(name, s)
		l.Network = "unixpacket"
		return l
	}
	public := func(name, flag string, port uint16) Listener {
		return Listener{Name: name, Network: "tcp", Address: fmt.Sprintf("%s:%d", bracket(inst.Listen.Public), port), Flag: flag}
	}
	datagrams := func(name, flag string, port uint16) Listener {
		return Listener{Name: name, Network: "udp", Address: fmt.Sprintf("%s:%d", bracket(inst.Listen.Public), port), Flag: flag}
	}
	operator := func(name, flag string, port uint16) Listener {
		return Listener{Name: name, Network: "tcp", Address: fmt.Sprintf("%s:%d", bracket(inst.Listen.Operator), port), Flag: flag}
	}
	var certs []string
	if x.SSLCertFile != "" {
		certs = []string{"SSL_CERT_FILE=" + x.SSLCertFile}
	}
	table := []Spec{
		// The engine asks its shim once what it can do, and the shim asks the runc that it finds by name. Where it finds none
		// the answer is an error, and the question is asked again at each start of an instance.
		{Name: "containerd", Privileged: true, Keep: true, Grace: 10 * time.Second, Env: []string{"PATH=" + inst.EngineBin}},
		{Name: "node", Privileged: true, Keep: true, Env: certs, Store: 32, Grace: 30 * time.Second,
			Listeners: []Listener{unixSocket("verbs", install.NodeVerbs), unixSocket("certs", install.NodeCerts)}},
		// dial enters network namespaces, which takes CAP_SYS_ADMIN, and has nothing else. Its store holds one
		// namespace per instance; a process can be handed 1024 descriptors in all (fdpass).
		{Name: "dial", Apart: true, User: inst.User(install.Dial), Caps: []uintptr{unix.CAP_SYS_ADMIN}, Threads: 512, Store: 1000,
			Listeners: []Listener{packets("node", install.DialNode)}},
		{Name: "egress", User: inst.User(install.Egress), Threads: 512, Env: certs, Store: 256,
			Listeners: []Listener{packets("control", install.EgressControl)}},
		{Name: "resolver", User: inst.User(install.Resolver), Threads: 512, Store: 256,
			Listeners: []Listener{packets("control", install.ResolverControl)}},
		// It connects to authorities and listens nowhere.
		{Name: "certs", User: inst.User(install.Certs), Threads: 512, Env: certs},
		{Name: "server", Apart: true, User: inst.User(install.Server), Threads: 4096, Store: 16, Grace: 30 * time.Second,
			Listeners: []Listener{operator("api", "--api-port", inst.Ports.API), operator("ssh", "--ssh-port", inst.Ports.SSH)}},
		// The edge drains for up to 30 s.
		{Name: "edge", Apart: true, Prompt: true, User: inst.User(install.Edge), Threads: 1024, Store: 16, Overlap: true, Forget: bulwark.ForgetClient, Grace: 40 * time.Second,
			Listeners: []Listener{
				public("https", "--https-port", inst.Ports.HTTPS), datagrams("quic", "--https-port", inst.Ports.HTTPS), public("http", "--http-port", inst.Ports.HTTP),
				unixSocket("control", install.EdgeControl), unixSocket("certs", install.EdgeCerts), unixSocket("issued", install.EdgeIssued), packets("dial", install.EdgeDial),
			}},
		// The prober looks at every process's effective settings and into every namespace.
		{Name: "posture", Privileged: true, Env: certs, Grace: 20 * time.Second,
			Listeners: []Listener{unixSocket("results", install.PostureResults)}},
	}
	for i := range table {
		table[i].Args = []string{"process", table[i].Name, "--root", inst.Root}
	}
	return table
}

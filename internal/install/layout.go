package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"golang.org/x/sys/unix"
)

// Entry is one directory or socket of an installation: who owns it and who may do what with it.
type Entry struct {
	Path  string      // absolute
	Mode  fs.FileMode // fs.ModeDir or fs.ModeSocket, and the permission bits
	Owner uint32      // user id and group id
}

// Socket names a unix socket of an installation by who listens and for what.
type Socket string

// The sockets. The process before the "-" listens.
const (
	SupervisorSocket Socket = "supervisor"
	EdgeControl      Socket = "edge-control"
	EdgeCerts        Socket = "edge-certs"
	EdgeIssued       Socket = "edge-issued"
	NodeCerts        Socket = "node-certs"
	EdgeDial         Socket = "edge-dial"
	NodeVerbs        Socket = "node-verbs"
	DialNode         Socket = "dial-node"
	EgressControl    Socket = "egress-control"
	ResolverControl  Socket = "resolver-control"
	ContainerdSocket Socket = "containerd"
	PostureResults   Socket = "posture-results"
)

// Processes are the names of the processes that the supervisor runs, in the order of their start.
func Processes() []string {
	return []string{"containerd", "node", "dial", "egress", "resolver", "certs", "server", "edge", "posture"}
}

// Table is the layout of an installation.
type Table []Entry

// Layout is the one table of all directories and sockets. A parent comes before what is in it. The owner of a socket is
// the one peer that may connect (connecting takes write permission); root always may. No directory on the way to a
// socket lets others list it.
func (i *Installation) Layout() Table {
	dir := func(path string, owner uint32, mode fs.FileMode) Entry {
		return Entry{Path: path, Owner: owner, Mode: fs.ModeDir | mode}
	}
	t := Table{
		dir(i.Root, 0, 0o711),
		dir(i.RunDir(), 0, 0o711),
		dir(i.notifyDir(), 0, 0o711),
		dir(i.LogDir(), 0, 0o700),
		dir(i.ServerDir(), i.User(Server), 0o700), // database, git repositories
		dir(i.NodeDir(), 0, 0o700),                // ledger, keys
		// containerd and what is mounted from here into instances: their root users, who are nobody on the host, must
		// be able to pass through.
		dir(i.ContainerdDir(), 0, 0o711),
		dir(i.VolumeDir(), 0, 0o711),
		dir(i.BuildDir(), 0, 0o711),
		dir(i.BackupDir(), 0, 0o700),
		dir(i.PostureDir(), 0, 0o700), // the probes' records and keys
		dir(i.BasesDir(), 0, 0o755),   // public packages, read by builders
	}
	for s, owner := range map[Socket]uint32{
		SupervisorSocket: 0,
		EdgeControl:      i.User(Server),
		EdgeCerts:        0,
		EdgeIssued:       i.User(Certs),
		NodeCerts:        i.User(Certs),
		EdgeDial:         i.User(Dial),
		NodeVerbs:        i.User(Server),
		DialNode:         0,
		EgressControl:    0,
		ResolverControl:  0,
		ContainerdSocket: 0,
		PostureResults:   i.User(Server),
	} {
		t = append(t, Entry{Path: i.Socket(s), Owner: owner, Mode: fs.ModeSocket | 0o600})
	}
	return t
}

// RunDir holds sockets and the supervisor's state.
func (i *Installation) RunDir() string { return filepath.Join(i.Root, "run") }

// LogDir holds one log per process.
func (i *Installation) LogDir() string { return filepath.Join(i.Root, "logs") }

// ServerDir belongs to the server: its database and the git repositories.
func (i *Installation) ServerDir() string { return filepath.Join(i.Root, "server") }

// ASTable is whose networks are whose, for the edge and the node to read.
func (i *Installation) ASTable() string { return filepath.Join(i.Root, "networks.table") }

// NodeDir belongs to the node: its ledger and the site's keys.
func (i *Installation) NodeDir() string { return filepath.Join(i.Root, "node") }

// ContainerdDir belongs to containerd: its root and its state.
func (i *Installation) ContainerdDir() string { return filepath.Join(i.Root, "containerd") }

// VolumeDir holds the apps' volumes, each in a directory that the node makes.
func (i *Installation) VolumeDir() string { return filepath.Join(i.Root, "volumes") }

// BuildDir holds the builders' state, each in a directory that the node makes.
func (i *Installation) BuildDir() string { return filepath.Join(i.Root, "builds") }

// BackupDir holds backups that stay on the machine.
func (i *Installation) BackupDir() string { return filepath.Join(i.Root, "backups") }

// PostureDir holds the probes' records, and what the prober signs in with.
func (i *Installation) PostureDir() string { return filepath.Join(i.Root, "posture") }

// BasesDir holds the base images that "bulwark bases add" brought, a directory per set of them.
func (i *Installation) BasesDir() string { return filepath.Join(i.Root, "bases") }

// Socket returns the path of a socket.
func (i *Installation) Socket(s Socket) string { return filepath.Join(i.RunDir(), string(s)+".sock") }

// SocketEntry returns the row of the table for s.
func (i *Installation) SocketEntry(s Socket) Entry {
	path := i.Socket(s)
	for _, e := range i.Layout() {
		if e.Path == path {
			return e
		}
	}
	return Entry{Path: path, Mode: fs.ModeSocket | 0o600} // root alone
}

// NotifySocket is where a process of that name tells the supervisor that it is ready; its own user alone can write.
func (i *Installation) NotifySocket(process string) string {
	return filepath.Join(i.notifyDir(), process)
}

func (i *Installation) notifyDir() string { return filepath.Join(i.RunDir(), "notify") }

// StateFile is where the supervisor writes what it started.
func (i *Installation) StateFile() string { return filepath.Join(i.RunDir(), "supervisor.json") }

// LockFile is locked by the one supervisor that lives.
func (i *Installation) LockFile() string { return filepath.Join(i.RunDir(), "supervisor.lock") }

// RouterNamespace is the name of the network namespace in which the instances' links end.
func (i *Installation) RouterNamespace() string { return i.account() }

// RouterNamespacePath is where it is mounted, so that `ip netns` sees it.
func (i *Installation) RouterNamespacePath() string { return "/run/netns/" + i.account() }

// HostTable is the name of the table of rules (nftables, inet) that the installation has on the host itself, about two of its own users.
func (i *Installation) HostTable() string { return i.account() }

// CgroupName is the name of the installation's control group, directly below the root of each hierarchy.
func (i *Installation) CgroupName() string { return i.account() }

// BuildCgroupName is the name of the control group of all its builders, which stands beside the other so that builds can
// have less of the processors than everything else on the machine. No installation's name has a dot.
func (i *Installation) BuildCgroupName() string { return i.account() + ".builds" }

// EngineCgroupName is the name of the control group of the processes that start and end instances: the engine, its shims and
// the node. They have less of the processors than those through which requests go.
func (i *Installation) EngineCgroupName() string { return i.account() + ".engine" }

// PostureCgroupName is the name of the control group of the prober and of what it starts.
func (i *Installation) PostureCgroupName() string { return i.account() + ".posture" }

// Check makes the layout so: it makes what is missing, repairs owners and modes, and refuses what it must not touch. The
// supervisor runs it at each start.
func (i *Installation) Check() error {
	if err := checkWay(i.Root); err != nil {
		return err
	}
	if err := i.Layout().check(i.Root); err != nil {
		return err
	}
	return i.Layout().repair(i.Root)
}

// check refuses strangers without changing anything.
func (t Table) check(root string) error { return t.each(root, false) }

// repair makes directories and gives them owner and mode.
func (t Table) repair(root string) error { return t.each(root, true) }

func (t Table) each(root string, repair bool) error {
	dir, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer dir.Close()
	for _, e := range t {
		if !e.Mode.IsDir() {
			continue // sockets are made, with owner and mode, by who listens
		}
		if err := e.apply(int(dir.Fd()), root, repair); err != nil {
			return err
		}
	}
	return nil
}

// apply works on descriptors from root downwards and follows no link, so that what it looks at is what it changes.
func (e Entry) apply(rootFD int, root string, repair bool) error {
	rel := strings.TrimPrefix(strings.TrimPrefix(e.Path, root), "/")
	if rel == "" {
		rel = "."
	} else if repair {
		if err := makeDir(rootFD, rel); err != nil {
			return fmt.Errorf("install: cannot make %s: %w", e.Path, err)
		}
	}
	fd, err := unix.Openat2(rootFD, rel, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK,
		// Without RESOLVE_NO_XDEV: an operator may put a file system of its own below one of the directories.
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err == unix.ENOENT && !repair {
		return nil
	}
	if err != nil {
		return bulwark.Fail(bulwark.KindForbidden, e.Path+" is not a plain directory.",
			"Look at what is there and move it away; a symbolic link is refused, mount a file system there in its place.", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("install: %s: %w", e.Path, err)
	}
	// Before the ids are allocated the table has owner 0 plus a small number; nothing can be there yet then.
	if st.Uid != 0 && st.Uid != e.Owner && repair {
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("%s belongs to the user id %d, who is a stranger to this installation.", e.Path, st.Uid),
			fmt.Sprintf("Find out who made it; give it to the user id %d if it is right.", e.Owner), nil)
	}
	if !repair {
		return nil
	}
	if st.Uid != e.Owner || st.Gid != e.Owner {
		if err := unix.Fchown(fd, int(e.Owner), int(e.Owner)); err != nil {
			return fmt.Errorf("install: %s: %w", e.Path, err)
		}
	}
	if fs.FileMode(st.Mode&0o7777) != e.Mode.Perm() {
		if err := unix.Fchmod(fd, uint32(e.Mode.Perm())); err != nil {
			return fmt.Errorf("install: %s: %w", e.Path, err)
		}
	}
	return nil
}

// makeDir makes rel below rootFD, closed to all until apply has given it away.
func makeDir(rootFD int, rel string) error {
	parent, err := unix.Openat2(rootFD, filepath.Dir(rel), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, filepath.Base(rel), 0o700); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

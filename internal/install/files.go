package install

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"golang.org/x/sys/unix"
)

// writeFile writes v as JSON, atomically.
func writeFile(path string, v any, mode fs.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return atomicfile.Write(path, append(b, '\n'), mode)
}

// readTrusted reads JSON from a file that only root can have written.
func readTrusted(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if os.IsNotExist(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("%s is not a plain file that only root can write.", path),
			"Find out who changed it; restore it from a backup.", nil)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("%s cannot be read.", path), "Restore it from a backup.", err)
	}
	return nil
}

// maxSocketPath is what fits into sockaddr_un.sun_path with the NUL at its end (unix(7)).
const maxSocketPath = 107

// longestSocket is the longest path below a root that this table or containerd makes a socket at.
const longestSocket = "/run/containerd.sock.ttrpc"

// checkPath refuses a path that some user of it would read as something else: overlay's mount options split at ":" and
// ",", systemd expands "%", and a space splits a line of mountinfo or a unit.
func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return bulwark.Invalid(fmt.Sprintf("The path %q is not absolute and clean.", path), "Give a path such as "+DefaultRoot+".")
	}
	for _, c := range path {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-", c)) {
			return bulwark.Invalid(fmt.Sprintf("The path %q has the character %q, which it cannot have.", path, c),
				"Use letters, digits, \".\", \"_\" and \"-\" only.")
		}
	}
	return nil
}

func checkRoot(root string) error {
	if err := checkPath(root); err != nil {
		return err
	}
	if strings.Count(root, "/") == 1 {
		return bulwark.Invalid(fmt.Sprintf("An installation cannot live at %s, directly below the file system's root.", root),
			"Give a folder of its own, such as "+DefaultRoot+".")
	}
	if most := maxSocketPath - len(longestSocket); len(root) > most {
		return bulwark.Invalid(fmt.Sprintf("The root %s is %d characters long; sockets below it could not be reached.", root, len(root)),
			fmt.Sprintf("Give a path of at most %d characters.", most))
	}
	return nil
}

// makeRoot makes root and what is missing above it, then checks that nobody but root can swap a part of the path.
func makeRoot(root string) error {
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := os.Mkdir(root, 0o711); err != nil && !os.IsExist(err) {
		return fmt.Errorf("install: %w", err)
	}
	return checkWay(root)
}

// checkWay walks from / to root: each part is a directory, no link, of root, and others may write only where the sticky
// bit keeps them from renaming what is not theirs.
func checkWay(root string) error {
	parts := strings.Split(strings.TrimPrefix(root, "/"), "/")
	for n := range len(parts) + 1 {
		path := "/" + strings.Join(parts[:n], "/")
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("install: %s: %w", path, err)
		}
		loose := st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || loose {
			return bulwark.Fail(bulwark.KindForbidden,
				fmt.Sprintf("%s is not a directory that only root can change, so an installation at %s would not be safe.", path, root),
				"Choose a root whose path has no symbolic links and belongs to root, such as "+DefaultRoot+".", nil)
		}
	}
	return nil
}

// lockDir holds an exclusive lock on a directory, so that two creators work one after the other.
func lockDir(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("install: %w", err)
	}
	return func() { f.Close() }, nil
}

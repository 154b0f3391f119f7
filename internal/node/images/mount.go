package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// Platform is the layer of ours on top of an image: the mount points that an instance needs, whatever the image holds, and
// the init.
type Platform struct {
	Init  string            // path of bulwark-init
	Dirs  []string          // declared writable paths
	Files map[string]string // small files, such as /etc/resolv.conf
}

// Mount puts an image together at target: its layers and the platform's, each mapped to the id range that begins at
// uidBase, as one read-only overlay. The paths of the host do not show in it. It is done once per release and app; the
// instances share it, and with it the page cache.
func (s *Store) Mount(ctx context.Context, layers []ledger.Layer, p Platform, uidBase uint32, target string) (err error) {
	if err := files.Dir(target, 0o711, 0); err != nil {
		return err
	}
	work := s.work(target)
	if err := errors.Join(cleanUp(work), os.RemoveAll(work)); err != nil { // of an attempt that was cut off
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp(work)) }()
	top := filepath.Join(work, "platform")
	if err := p.write(top); err != nil {
		return err
	}
	ids := fmt.Sprintf("0:%d:65536", uidBase)
	userns, err := mount.GetUsernsFD(ids, ids)
	if err != nil {
		return fmt.Errorf("images: cannot make a user namespace: %w", err)
	}
	defer userns.Close()

	// Top first, as overlayfs wants its lower directories.
	lower := []string{filepath.Join(work, "l0")}
	if err := mapped(top, lower[0], userns); err != nil {
		return err
	}
	for i := len(layers) - 1; i >= 0; i-- {
		at := filepath.Join(work, "l"+strconv.Itoa(len(lower)))
		if err := s.mountLayer(layers[i].EROFS, at+"-raw", at, userns); err != nil {
			return err
		}
		lower = append(lower, at)
	}
	return overlay(lower, target)
}

// mountLayer mounts a layer's file and makes a view of it that is mapped to the app's ids.
func (s *Store) mountLayer(d bulwark.Digest, raw, at string, userns *os.File) error {
	if err := os.MkdirAll(raw, 0o700); err != nil {
		return err
	}
	err := unix.Mount(s.layer(d), raw, "erofs", layerFlags, "")
	if errors.Is(err, unix.ENOTBLK) {
		err = mountLoop(s.layer(d), raw)
	}
	if err != nil {
		return fmt.Errorf("images: cannot mount layer %s: %w", d, err)
	}
	return mapped(raw, at, userns)
}

const layerFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV

// mountLoop mounts a layer's file through a loop device, which goes away with the mount: before Linux 6.12, EROFS takes a
// device only. It reads past the page cache of the file, so that what it read is in memory once.
func mountLoop(file, at string) error {
	loop, err := mount.SetupLoop(file, mount.LoopParams{Readonly: true, Autoclear: true, Direct: true})
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.Mount(loop.Name(), at, "erofs", layerFlags, "")
}

func mapped(from, at string, userns *os.File) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	return mount.IDMapMount(from, at, int(userns.Fd()))
}

// overlay joins lower directories at target through the new mount calls, which take them one by one: an option string is
// cut at 4 KiB. The configured source is a fixed word, so that nothing of the host shows in an instance's mount table
// but names in a temporary directory that is gone.
func overlay(lower []string, target string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", "image"); err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	for _, l := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return fmt.Errorf("images: overlay: lower directory: %w", err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	err = unix.FsconfigCreate(fs)
	if errors.Is(err, unix.EINVAL) { // an old kernel keeps any option for later, and then does not know it
		return overlayByOptions(lower, target)
	}
	if err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	defer unix.Close(m)
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	return nil
}

// overlayByOptions joins lower directories as before Linux 6.8, by one string of options. It names them by descriptors: so many
// layers fit into the 4 KiB of such a string, and nothing of the host shows in an instance's mount table.
func overlayByOptions(lower []string, target string) error {
	var names []string
	for _, l := range lower {
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("images: overlay: lower directory: %w", err)
		}
		defer unix.Close(fd)
		names = append(names, "/proc/self/fd/"+strconv.Itoa(fd))
	}
	options := "lowerdir=" + strings.Join(names, ":")
	if len(options) >= unix.Getpagesize() {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The image has %d layers, which is more than this machine's kernel can join.", len(lower)-1),
			"Join some of its layers, or run Linux 6.8 or later.", nil)
	}
	if err := unix.Mount("image", target, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("images: overlay: %w", err)
	}
	return nil
}

// cleanUp detaches the mounts that went into an overlay: it holds its own references.
func cleanUp(work string) error {
	entries, err := os.ReadDir(work)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unix.Unmount(filepath.Join(work, e.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
			return err
		}
	}
	// The platform's directory stays as long as the overlay: it is a layer of it, and an unlinked one would be empty.
	for _, e := range entries {
		if e.Name() != "platform" {
			if err := os.Remove(filepath.Join(work, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// write makes the platform's layer.
func (p Platform) write(top string) error {
	for _, d := range append([]string{".bulwark", "proc", "sys", "dev", "tmp", "run", "etc"}, p.Dirs...) {
		if err := os.MkdirAll(filepath.Join(top, filepath.Clean("/"+d)), 0o755); err != nil {
			return err
		}
	}
	if p.Init != "" { // a builder has none
		init, err := os.ReadFile(p.Init)
		if err != nil {
			return err
		}
		if err := files.Write(filepath.Join(top, ".bulwark/init"), init, 0o755); err != nil {
			return err
		}
	}
	if err := files.Write(filepath.Join(top, ".bulwark/socket"), nil, 0o644); err != nil {
		return err
	}
	for name, content := range p.Files {
		if err := files.Write(filepath.Join(top, filepath.Clean("/"+name)), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// Directories made under a tight umask must still be passable for the app's user.
	return filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
}

// work is where the parts of an overlay are put together. The platform's layer stays there as long as the overlay.
func (s *Store) work(target string) string {
	return filepath.Join(s.config.Dir, "tmp", "mount-"+filepath.Base(target))
}

// Unmount takes an image apart.
func (s *Store) Unmount(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("images: %w", err)
	}
	return os.RemoveAll(s.work(target))
}

// Mounted tells whether something is mounted at target.
func Mounted(target string) bool {
	var a, b unix.Stat_t
	if unix.Lstat(target, &a) != nil || unix.Lstat(filepath.Dir(target), &b) != nil {
		return false
	}
	return a.Dev != b.Dev
}

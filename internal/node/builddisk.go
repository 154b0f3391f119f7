package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// minFree is how much of the disk builds leave alone, in bytes: below it none begins, and below half of it those that run
// are ended. What runs needs room for its logs, the node for its ledger, the server for its records.
const minFree = 2 << 30

// disks gives each app's builds a file system of their own, of a bounded size: an image in a sparse file, mounted through a
// loop device while a build runs. It holds BuildKit's cache and the build's output, so that a build fills nothing but
// its own app's. Quotas would do the same; few kernels and file systems have them on.
type disks struct {
	dir    string // builds' directory, for <app>/disk.img and <app>/disk
	size   int64  // bytes
	least  uint64 // minFree, but for tests
	mkfs   string
	mu     sync.Mutex // guards opened and each disk's users; taken after disk.mu
	opened map[bulwark.AppID]*disk
}

// disk is one app's, while builds use it.
type disk struct {
	app   bulwark.AppID
	at    string     // where it is mounted
	mu    sync.Mutex // held by who mounts or unmounts, which may take a while
	users int        // under disks.mu
	// spoilt: it was filled. The builder that would tidy up was killed, so the next build begins with an empty one.
	spoilt atomic.Bool
}

func (d *disk) state() string { return filepath.Join(d.at, "state") }
func (d *disk) out() string   { return filepath.Join(d.at, "out") }

func openDisks(dir string, size int64) (*disks, error) {
	mkfs, err := process.Look("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return nil, err
	}
	d := &disks{dir: dir, size: size, least: minFree, mkfs: mkfs, opened: map[bulwark.AppID]*disk{}}
	// Of builds that ended with the node before this one.
	left, err := filepath.Glob(filepath.Join(dir, "*", "disk"))
	for _, at := range left {
		err = errors.Join(err, unmount(at))
	}
	return d, err
}

// room refuses what would take more of a disk that is nearly full. What runs goes on.
func (d *disks) room() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < d.least {
		return bulwark.Fail(bulwark.KindBusy, fmt.Sprintf("The machine's disk has %d MB left, so nothing is built; what runs goes on.", free/1e6),
			fmt.Sprintf("Ask the operator to make room: at least %d MB must be free.", d.least/1e6), nil)
	}
	return nil
}

// open mounts an app's disk, making it if there is none, and gives it to the app's builders. Each open takes a close.
func (d *disks) open(ctx context.Context, app bulwark.AppID, uid uint32) (*disk, error) {
	k := d.use(app)
	k.mu.Lock()
	defer k.mu.Unlock()
	err := d.mounted(ctx, k, uid)
	if err != nil {
		d.leave(k)
	}
	return k, err
}

// use returns the one disk of an app, with a user more.
func (d *disks) use(app bulwark.AppID) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.opened[app]
	if k == nil {
		k = &disk{app: app, at: filepath.Join(d.dir, string(app), "disk")}
		d.opened[app] = k
	}
	k.users++
	return k
}

// leave takes a user away, and tells whether it was the last.
func (d *disks) leave(k *disk) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	k.users--
	if k.users == 0 {
		delete(d.opened, k.app)
	}
	return k.users == 0
}

// mounted makes it so. The caller holds k.mu.
func (d *disks) mounted(ctx context.Context, k *disk, uid uint32) error {
	if images.Mounted(k.at) {
		return nil
	}
	home := filepath.Dir(k.at)
	for _, dir := range []string{home, k.at} {
		if err := files.Dir(dir, 0o711, 0); err != nil {
			return err
		}
	}
	image := filepath.Join(home, "disk.img")
	st, err := os.Stat(image)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// It is a cache: one that the machine's crash has spoilt, or may have, is made anew.
	fresh := err != nil || st.Size() != d.size || cutOff(image) || mountImage(image, k.at) != nil
	if fresh {
		if err := d.make(ctx, image); err != nil {
			return err
		}
		if err := mountImage(image, k.at); err != nil {
			return bulwark.Fail(bulwark.KindUnavailable, "The build's file system cannot be mounted.",
				"Builds need loop devices and ext4 on this machine; see the node's log.", err)
		}
	}
	for _, dir := range []string{k.state(), k.out()} {
		if err := files.Dir(dir, 0o700, uid); err != nil {
			return errors.Join(err, unmount(k.at))
		}
	}
	return nil
}

// make writes an empty file system to a sparse file.
func (d *disks) make(ctx context.Context, image string) error {
	fresh := image + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(fresh) // no effect once renamed
	if err := errors.Join(f.Truncate(d.size), f.Close()); err != nil {
		return err
	}
	if err := process.Run(ctx, process.Cmd{Path: d.mkfs, Args: []string{"-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", "-J", "size=16", fresh},
		Env: []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "MKE2FS_CONFIG=/dev/null"}}); err != nil {
		return fmt.Errorf("node: cannot make a build's file system: %w", err)
	}
	return os.Rename(fresh, image)
}

// close unmounts a disk that no build uses any more, and gives what was deleted on it back to the machine's.
func (d *disks) close(k *disk) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d.mu.Lock()
	last := k.users == 1
	d.mu.Unlock()
	var err error
	if last { // who wants it meanwhile waits for k.mu, and mounts it again
		trim(k.at)
		err = unmount(k.at)
		if k.spoilt.Load() {
			err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(k.at), "disk.img")))
		}
	}
	d.leave(k)
	return err
}

// forget removes the disk of an app that is gone. One in use stays: its build is being ended.
func (d *disks) forget(app bulwark.AppID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened[app] != nil {
		return nil
	}
	home := filepath.Join(d.dir, string(app))
	if err := unmount(filepath.Join(home, "disk")); err != nil {
		return err
	}
	return os.RemoveAll(home)
}

// cutOff tells whether a file system was mounted when the machine went down. Its journal would make the file system whole again,
// not what BuildKit keeps there: that is not flushed, so an empty file could stand for a step's result, in this build and in
// every later one.
func cutOff(image string) bool {
	f, err := os.Open(image)
	if err != nil {
		return true
	}
	defer f.Close()
	var incompat [4]byte // the superblock's s_feature_incompat; see ext4(5) and the kernel's ext4/super.rst
	if _, err := f.ReadAt(incompat[:], 1024+0x60); err != nil {
		return true
	}
	const needsRecovery = 0x4 // set by a mount, cleared when it ends
	return binary.LittleEndian.Uint32(incompat[:])&needsRecovery != 0
}

func mountImage(image, at string) error {
	// Its number is freed with the last who uses it: the mount.
	loop, err := mount.SetupLoop(image, mount.LoopParams{Autoclear: true})
	if err != nil {
		return err
	}
	defer loop.Close()
	// Without nodev and nosuid, for what builds make there; nobody of the host's passes the folder around it.
	return unix.Mount(loop.Name(), at, "ext4", unix.MS_NOATIME, "errors=remount-ro")
}

func unmount(at string) error {
	if !images.Mounted(at) {
		return nil
	}
	var err error
	for range 100 {
		if err = unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond) // a process of the builder's is still ending
	}
	if err == unix.EBUSY {
		err = unix.Unmount(at, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("node: cannot unmount %s: %w", at, err)
	}
	return nil
}

// trim is fstrim(8): the blocks of deleted files become holes in the image. One that fails gives back later.
func trim(at string) {
	f, err := os.Open(at)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Syncfs(int(f.Fd())) // what a journal still holds is not free yet
	all := struct{ start, length, least uint64 }{length: ^uint64(0)}
	const fitrim = 0xc0185879
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&all))) //nolint:gosec // a structure of the kernel's, which no package has a call for
}

// guard watches the disks under a build.
type guard struct {
	d    *disks
	k    *disk
	met  atomic.Pointer[error]
	done chan struct{}
}

// guardEvery is how often a build's disk is looked at. A full one stays full no longer than the step that filled it.
const guardEvery = 100 * time.Millisecond

// watch ends a build, by stop, that has filled its disk, or under which the machine's disk becomes full.
func (d *disks) watch(ctx context.Context, k *disk, stop context.CancelCauseFunc) *guard {
	g := &guard{d: d, k: k, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		tick := time.NewTicker(guardEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := g.look(); err != nil {
				g.met.Store(&err)
				stop(err)
				return
			}
		}
	}()
	return g
}

func (g *guard) look() error {
	var own, machine unix.Statfs_t
	if unix.Statfs(g.k.at, &own) == nil && (own.Bavail*uint64(own.Bsize) < uint64(g.d.size/50) || own.Ffree < own.Files/100) {
		g.k.spoilt.Store(true)
		return g.d.full()
	}
	if unix.Statfs(g.d.dir, &machine) == nil && machine.Bavail*uint64(machine.Bsize) < g.d.least/2 {
		return bulwark.Fail(bulwark.KindBusy, "The machine's disk is nearly full, so the build was ended; what runs goes on.", "Ask the operator to make room, and push again.", nil)
	}
	return nil
}

func (d *disks) full() error {
	return bulwark.Fail(bulwark.KindFailed, fmt.Sprintf("The build used more than %s of disk.", gigabytes(d.size)),
		"Its steps and its cache of earlier builds share that. Look at what the last step writes: bulwark builds show.", nil)
}

// explain returns why a build failed, if it was for its disk: seen by the watch, or said by what met the end of it.
func (g *guard) explain(err error) error {
	if met := g.met.Load(); met != nil {
		return *met
	}
	if e, ok := errors.AsType[*bulwark.Error](err); ok && strings.Contains(strings.ToLower(e.Message+e.Hint), "no space left on device") {
		g.k.spoilt.Store(true)
		return g.d.full()
	}
	return err
}

func gigabytes(n int64) string {
	if n%1e9 == 0 {
		return fmt.Sprintf("%d GB", n/1e9)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

package install

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
)

// bootFile says which boot of the machine the state of containers is of.
func (i *Installation) bootFile() string { return filepath.Join(i.RunDir(), "boot") }

// perBoot are the folders of what ends with the machine: what runc and containerd know of running containers, and where their
// images were mounted. It lies on disk beside the rest of the installation, so it outlives them.
func (i *Installation) perBoot() []string {
	return []string{filepath.Join(i.RunDir(), "runc"), filepath.Join(i.RunDir(), "rootfs"), filepath.Join(i.RunDir(), "init"),
		filepath.Join(i.ContainerdDir(), "state")}
}

// Booted is told the machine's boot at each start, before anything runs. In the first start after a boot it removes the state of
// containers that ended with the machine: when the power went away that state is a part of what it was, which nobody can tidy
// up by its rules, and a container of the same name could never be made again.
func (i *Installation) Booted(boot string) error {
	was, err := os.ReadFile(i.bootFile())
	if err != nil && !os.IsNotExist(err) {
		return bulwark.Fail(bulwark.KindInternal, "It cannot be read whether the machine was booted.", "", err)
	}
	if string(was) == boot {
		return nil
	}
	if err == nil { // else an earlier version was here last, and instances may live
		for _, dir := range i.perBoot() {
			mounts, merr := mountsBelow(dir)
			if err = errors.Join(err, merr); len(mounts) > 0 {
				return bulwark.Fail(bulwark.KindConflict, "The machine was booted, and "+mounts[0]+" is mounted already.",
					"Nobody but Bulwark mounts anything there. Unmount it: umount "+mounts[0], nil)
			}
			if merr == nil {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
		if err != nil {
			return bulwark.Fail(bulwark.KindInternal, "What is left of containers of before the boot cannot be removed.", "", err)
		}
	}
	return atomicfile.Write(i.bootFile(), []byte(boot), 0o600)
}

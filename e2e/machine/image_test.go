//go:build machine

package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are those of a small Debian server, those that the package of Bulwark depends on, and those that the test uses.
// There is no network on the machine, so apt cannot bring them there.
var packages = []string{"systemd", "systemd-sysv", "dbus", "udev", "initramfs-tools", "linux-image-cloud-amd64", "procps", "iproute2", "kmod",
	"git", "openssh-client", "nftables", "e2fsprogs", "ca-certificates",
	"curl", "python3"}

// files are what the machine has beside its packages.
var files = map[string]string{
	"etc/hostname": "machine\n",
	"etc/hosts":    "127.0.0.1 localhost machine\n::1 localhost\n",
	"etc/fstab":    "/dev/vda / ext4 defaults,errors=remount-ro 0 1\n/dev/vdb /media ext4 ro,nofail 0 0\n",
	"etc/systemd/system/agent.service": `[Unit]
Description=Agent of the test
RequiresMountsFor=/media
[Service]
ExecStart=/media/machine agent
Restart=always
StartLimitBurst=100
Delegate=yes
[Install]
WantedBy=multi-user.target
`,
}

// diskSize is that of the machine's disk; the file is sparse.
const diskSize = "14G"

// image makes the machine's disk once, and returns the folder that holds disk, vmlinuz and initrd.
func image(cache string) (string, error) {
	sum := sha256.New()
	fmt.Fprint(sum, packages, files, diskSize)
	dir := filepath.Join(cache, "machine", hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	root, done := filepath.Join(work, "root"), filepath.Join(work, "done")
	if err := errors.Join(os.Chmod(work, 0o755), os.Mkdir(done, 0o755)); err != nil {
		return "", err
	}
	if err := command("mmdebstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), "bookworm", root); err != nil {
		return "", err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"useradd", "--create-home", "--shell", "/bin/bash", "ada"},
		{"systemctl", "enable", "agent.service"},
		{"systemctl", "mask", "getty@tty1.service", "serial-getty@ttyS0.service", "apt-daily.timer", "apt-daily-upgrade.timer"},
	} {
		if err := command("chroot", append([]string{root}, args...)...); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		found, _ := filepath.Glob(filepath.Join(root, "boot", name+"-*"))
		if len(found) != 1 {
			return "", fmt.Errorf("the system has %d files %s", len(found), name)
		}
		if err := copyFile(found[0], filepath.Join(done, name)); err != nil {
			return "", err
		}
	}
	if err := command("mke2fs", "-q", "-t", "ext4", "-d", root, filepath.Join(done, "disk"), diskSize); err != nil {
		return "", err
	}
	return dir, os.Rename(done, dir)
}

// media makes a disk of what the machine is given: the release, and this program.
func media(dist, to string) error {
	dir := to + ".d"
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := copyFile(self, filepath.Join(dir, "machine")); err != nil {
		return err
	}
	var size int64 = 64 << 20
	for _, pattern := range []string{"bulwark_*.deb", "bulwark-bases_*.tar", "SHA256SUMS"} {
		found, _ := filepath.Glob(filepath.Join(dist, pattern))
		if len(found) != 1 {
			return fmt.Errorf("%s holds %d files %s; make release makes one", dist, len(found), pattern)
		}
		if err := copyFile(found[0], filepath.Join(dir, filepath.Base(found[0]))); err != nil {
			return err
		}
		st, err := os.Stat(found[0])
		if err != nil {
			return err
		}
		size += st.Size()
	}
	return command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", dir, to, fmt.Sprint(size*11/10>>20)+"M")
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// command runs a program of this machine, not of the virtual one.
func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

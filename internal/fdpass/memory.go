package fdpass

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// seals make a memory file constant: nobody who holds it, its maker included, can change what another one reads.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Sealed returns an anonymous memory file that holds data and cannot be changed any more.
func Sealed(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("fill a memory file: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal a memory file: %w", err)
	}
	return f, nil
}

// ReadSealed returns what Sealed put into f, at most limit bytes. A file that is not sealed is refused: it could change
// between check and use, and it is not what we stored.
func ReadSealed(f *os.File, limit int64) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var got, sealErr = 0, error(nil)
	if err := raw.Control(func(fd uintptr) { got, sealErr = unix.FcntlInt(fd, unix.F_GET_SEALS, 0) }); err != nil {
		return nil, err
	}
	if sealErr != nil || got&seals != seals {
		return nil, bulwark.Fail(bulwark.KindInvalid, "A stored descriptor is not sealed memory.", "", sealErr)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "A stored descriptor holds more than %d bytes.", limit)
	}
	return io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
}

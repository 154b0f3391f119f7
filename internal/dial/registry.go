package dial

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// target is a registered instance. It is immutable; netns may be closed under it, which its users notice safely since
// an os.File counts those who use its descriptor.
type target struct {
	app     bulwark.AppID
	address netip.AddrPort
	hosts   map[bulwark.HostName]struct{}
	netns   *os.File
}

// registry knows the instances.
type registry struct {
	home unix.Stat_t // identity of dial's own namespace, into which no instance may be registered

	mu      sync.RWMutex
	targets map[bulwark.InstanceID]*target
}

func newRegistry(home *os.File) (*registry, error) {
	r := &registry{targets: map[bulwark.InstanceID]*target{}}
	return r, stat(home, &r.home)
}

// newTarget checks a registration. It takes netns over if it returns no error.
func (r *registry) newTarget(reg bulwark.Registration, netns *os.File) (*target, error) {
	ip, err := netip.ParseAddr(reg.Address)
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return nil, bulwark.Invalid(fmt.Sprintf("%q is not the address of an instance.", reg.Address), "Give its unicast address without a zone.")
	}
	if reg.Instance == "" || reg.App == "" || reg.Port == 0 {
		return nil, bulwark.Invalid("A registration names an instance, an app and a port.", "")
	}
	var st unix.Stat_t
	if err := stat(netns, &st); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := control(netns, func(fd int) error { return unix.Fstatfs(fd, &fs) }); err != nil || fs.Type != unix.NSFS_MAGIC {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The descriptor with the registration is not a namespace.", "", err)
	}
	if st.Dev == r.home.Dev && st.Ino == r.home.Ino {
		return nil, bulwark.Invalid("The instance's network namespace is that of the platform.", "Register its own one.")
	}
	t := &target{app: reg.App, address: netip.AddrPortFrom(ip.Unmap(), reg.Port), netns: netns, hosts: make(map[bulwark.HostName]struct{}, len(reg.Hosts))}
	for _, h := range reg.Hosts {
		t.hosts[h] = struct{}{}
	}
	return t, nil
}

// put registers or replaces one instance.
func (r *registry) put(id bulwark.InstanceID, t *target) {
	r.mu.Lock()
	old := r.targets[id]
	r.targets[id] = t
	r.mu.Unlock()
	if old != nil {
		old.netns.Close()
	}
}

// remove forgets an instance and says whether it was known.
func (r *registry) remove(id bulwark.InstanceID) bool {
	r.mu.Lock()
	old := r.targets[id]
	delete(r.targets, id)
	r.mu.Unlock()
	if old != nil {
		old.netns.Close()
	}
	return old != nil
}

// replace puts all in the place of what is known.
func (r *registry) replace(all map[bulwark.InstanceID]*target) {
	if all == nil {
		all = map[bulwark.InstanceID]*target{}
	}
	r.mu.Lock()
	old := r.targets
	r.targets = all
	r.mu.Unlock()
	closeTargets(old)
}

// find returns the target for a request, or why there is none.
func (r *registry) find(id bulwark.InstanceID, host bulwark.HostName) (*target, bulwark.DialError) {
	r.mu.RLock()
	t := r.targets[id]
	r.mu.RUnlock()
	if t == nil {
		return nil, bulwark.DialUnknown
	}
	if _, claimed := t.hosts[host]; claimed {
		return t, ""
	}
	if above := host.Above(); above != "" {
		if _, claimed := t.hosts["*."+above]; claimed && !r.anothers(t.app, host) {
			return t, ""
		}
	}
	return nil, bulwark.DialDenied
}

// anothers tells that an instance of another app has a host for itself: it is no part of a pattern then.
func (r *registry) anothers(app bulwark.AppID, host bulwark.HostName) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range r.targets {
		if _, has := t.hosts[host]; has && t.app != app {
			return true
		}
	}
	return false
}

// after lists up to n ids in order, beginning behind id.
func (r *registry) after(id bulwark.InstanceID, n int) []bulwark.InstanceID {
	r.mu.RLock()
	var ids []bulwark.InstanceID
	for k := range r.targets {
		if k > id {
			ids = append(ids, k)
		}
	}
	r.mu.RUnlock()
	slices.Sort(ids)
	return ids[:min(n, len(ids))]
}

func closeTargets(all map[bulwark.InstanceID]*target) {
	for _, t := range all {
		t.netns.Close()
	}
}

func stat(f *os.File, st *unix.Stat_t) error {
	return control(f, func(fd int) error { return unix.Fstat(fd, st) })
}

// control runs do with f's descriptor, which cannot be closed and reused meanwhile. The error is os.ErrClosed if it was closed before.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := raw.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return fmt.Errorf("%w: %w", os.ErrClosed, err) // which is all that keeps it from being run
	}
	return doErr
}

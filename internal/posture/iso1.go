package posture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/posture/kit"
)

// maxSyscalls is how many system calls may lead to the kernel's code from inside an instance. A kernel or a filter that opens more
// is seen here.
const maxSyscalls = 150

func iso1() Control {
	return Control{ID: "ISO-1", Version: 2, Every: hourly,
		Promise: "One app cannot reach another's processes, files or memory, nor the host's.",
		Tries: "Runs an attack kit in an instance: signals, traces, mounts, namespaces, sockets, kernel interfaces and the shapes of published escapes. " +
			"Compares the effective settings of every process of every live instance with the specification.",
		Probe: probeISO1}
}

func probeISO1(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	if err := w.attackFrom(ctx, r, app); err != nil {
		return err
	}
	return w.everyInstance(ctx, r)
}

// attackFrom runs the kit in an instance, and on a plain twin: the same program with nothing around it.
func (w *World) attackFrom(ctx context.Context, r *Record, app string) error {
	inside, err := report(w.Person.InModel(ctx, app, "isolation"))
	if err != nil {
		return fmt.Errorf("in an instance: %w", err)
	}
	outside, err := report(w.plain(ctx, "isolation"))
	if err != nil {
		return fmt.Errorf("on the plain twin: %w", err)
	}
	came := map[string]bool{}
	for _, a := range outside.Attempts {
		came[a.Name] = a.Reached
	}
	seen := 0
	for _, a := range inside.Attempts {
		what := a.Name
		if a.Shape != "" {
			what += " (" + a.Shape + ")"
		}
		if a.Untried || a.Reached && w.tolerated(a.Name) {
			continue // the kit says so of what cannot be tried by its nature; it refuses nothing and proves nothing
		}
		r.Refused(what, !a.Reached, a.Detail)
		if came[a.Name] {
			seen++
		}
	}
	// Not everything comes through for a plain root either, so it is the number that proves.
	r.Proven("the kit's attacks come through on a plain twin", seen >= 20, fmt.Sprintf("%d of %d", seen, len(inside.Attempts)))
	if inside.Syscalls == nil || outside.Syscalls == nil {
		return fmt.Errorf("the kit counted no system calls")
	}
	r.Refused("system calls beyond the profile", inside.Syscalls.Reachable <= maxSyscalls, fmt.Sprintf("%d lead to the kernel's code", inside.Syscalls.Reachable))
	r.Proven("more system calls are counted on the plain twin", outside.Syscalls.Reachable > inside.Syscalls.Reachable,
		fmt.Sprintf("%d against %d", outside.Syscalls.Reachable, inside.Syscalls.Reachable))
	allowed := []string{"INET", "INET6", "UNIX", "NETLINK_ROUTE"}
	var other []string
	for _, f := range inside.Families {
		if !slices.Contains(allowed, f) {
			other = append(other, f)
		}
	}
	r.Refused("sockets of other families", len(other) == 0, "made: "+strings.Join(inside.Families, " "))
	r.Proven("other families are found on the plain twin", len(outside.Families) > len(allowed), strings.Join(outside.Families, " "))
	return nil
}

// tolerated are attacks that come through and reach nothing of anybody else's.
func (w *World) tolerated(name string) bool {
	switch name {
	case "push input into a terminal":
		return true // it is a terminal of the instance's own, at both ends
	case "lower the own oom_score_adj":
		// The kernel keeps a floor under it only if who set it holds CAP_SYS_RESOURCE, which the root of a container may lack.
		const capSysResource = 24
		b, err := os.ReadFile("/proc/self/status")
		v, perr := strconv.ParseUint(statusFields(b)["CapEff"], 16, 64)
		return err == nil && perr == nil && v&(1<<capSysResource) == 0
	}
	return false
}

// plain runs the kit with nothing around it but this process's own rights.
func (w *World) plain(ctx context.Context, args ...string) ([]byte, error) {
	return w.runKit(ctx, args...)
}

func report(b []byte, err error) (*kit.Report, error) {
	if err != nil {
		return nil, err
	}
	return kit.Parse(b)
}

// againTime is how long instances that do not seem confined are looked at again, all of them together.
const againTime = 10 * time.Second

// confinement tells how an instance is not confined as it should be, and the filter of its first process.
func (w *World) confinement(i live) (found []deviation, filter []byte, err error) {
	for _, pid := range i.pids {
		found = append(found, confined(pid, w.Installation.IDs, i.Isolation)...)
	}
	found = append(found, w.limits(i.Instance.Instance)...)
	filter, err = seccompFilter(i.pids[0])
	return found, filter, err
}

// again looks for an instance's processes once more; one that has ended has none.
func (w *World) again(ctx context.Context, i live) (live, error) {
	all, err := w.instances(ctx)
	if err != nil {
		return i, err
	}
	for _, o := range all {
		if o.Instance.Instance == i.Instance.Instance {
			return o, nil
		}
	}
	i.pids = nil
	return i, nil
}

// everyInstance looks at all that runs now, the model's instances among them.
func (w *World) everyInstance(ctx context.Context, r *Record) error {
	all, err := w.instances(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("no instance runs")
	}
	// The prober itself is a process that is not confined: who finds nothing to say of it finds nothing.
	self := confined(selfPID(), w.Installation.IDs, bulwark.IsolationDefault)
	r.Proven("the prober's own process is found unconfined", len(self) >= 8, fmt.Sprintf("%d deviations", len(self)))
	ranges := map[string]string{} // by app: no two have ids in common
	filters := map[string]int{}
	patience := time.Now().Add(againTime)
	for _, i := range all {
		found, filter, err := w.confinement(i)
		// Of one that ends in this moment there is less to be seen: what persists counts.
		for (len(found) > 0 || err != nil) && time.Now().Before(patience) {
			if !pause(ctx, againTime/10) {
				return ctx.Err()
			}
			if i, err = w.again(ctx, i); err != nil {
				return err
			}
			if len(i.pids) == 0 {
				break
			}
			found, filter, err = w.confinement(i)
		}
		if len(i.pids) == 0 {
			continue // it ended
		}
		if err != nil {
			if _, gone := uidOf(i.pids[0]); gone {
				continue
			}
			return fmt.Errorf("the filter of %s cannot be read: %w", i.Instance.Instance, err)
		}
		for _, d := range found {
			r.Refused(d.what, false, d.detail)
		}
		first, count, err := uidMap(i.pids[0])
		if err == nil {
			key := fmt.Sprintf("%d+%d", first, count)
			if other, taken := ranges[key]; taken && other != string(i.App) {
				r.Refused("user ids of its own for each app", false, fmt.Sprintf("%s and %s have %s", other, i.App, key))
			}
			ranges[key] = string(i.App)
			r.Refused("root inside is nobody outside", first != 0 && w.Installation.IDs.Contains(uint32(first)), fmt.Sprintf("%s: ids from %d", i.Instance.Instance, first))
		}
		if i.Isolation == bulwark.IsolationDefault { // a sandbox has gVisor's, and keeps the list for the app by itself
			sum := sha256.Sum256(filter)
			filters[hex.EncodeToString(sum[:6])]++
		}
		r.Refused("every process is confined as specified", len(found) == 0, fmt.Sprintf("%s: %d processes", i.Instance.Instance, len(i.pids)))
	}
	// The model's instance has been attacked through its filter; the others must have the very same.
	r.Refused("every instance has the same filter of system calls", len(filters) <= 1, fmt.Sprintf("%d instances, %d filters", len(all), len(filters)))
	return nil
}

package posture

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func int1() Control {
	return Control{ID: "INT-1", Version: 1, Every: daily,
		Promise: "Builds run in builders that are apart from anything that serves traffic.",
		Tries: "Runs the kit as a step of a real build: looks for platform secrets, sockets and other processes, and connects to every live instance, the router and " +
			"the platform's own ports. Looks afterwards for what the builder left.",
		Probe: probeINT1}
}

func probeINT1(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	// A secret of the app's own: it is for its instances, and no build of it may have it.
	marker := "MARKER-" + randomHex(24)
	if err := w.Person.secret(ctx, w.Scratch, app, "PROBE_RUNTIME", marker); err != nil {
		return err
	}
	args, names, err := w.buildTargets(ctx, r)
	if err != nil {
		return err
	}
	args = append(args, "--mask", disguise(marker))
	if err := w.plainBuild(ctx, r, marker, args); err != nil {
		return err
	}
	if _, err := w.Person.Deploy(ctx, w.Scratch, args...); err != nil {
		return err
	}
	inside, err := report(w.Person.InModel(ctx, app, "show", "--file", "/report.json"))
	if err != nil {
		return fmt.Errorf("what the build reported: %w", err)
	}
	for _, a := range inside.Attempts {
		what := a.Name
		if name := names[lastWord(a.Name)]; name != "" {
			what = "reach " + name
		}
		// The step's own program is a file of the image that is being built: it is the step's to write.
		own := a.Name == "overwrite a running program through /proc/PID/exe" && strings.Contains(a.Detail, "(kit)")
		if !a.Untried && !own {
			r.Refused(what, !a.Reached, a.Detail)
		}
	}
	return w.nothingLeft(ctx, r)
}

// buildTargets are the places that a build must not reach, as arguments for the kit, with what they are by the kit's names.
func (w *World) buildTargets(ctx context.Context, r *Record) (args []string, names map[string]string, err error) {
	targets, err := w.listeners(ctx)
	if err != nil {
		return nil, nil, err
	}
	names = map[string]string{}
	args = []string{"--timeout", reachInside}
	try := func(name, what, at string) {
		names[name] = what
		args = append(args, "--try", name+"=tcp:"+at)
	}
	alive := 0
	for i, t := range targets[:min(len(targets), maxListeners)] {
		if dialIn(t.ns, t.at) == nil {
			alive++
			try(fmt.Sprintf("l%d", i), "the instance at "+t.at.String(), t.at.String())
		}
	}
	r.Proven("instances listen, as a connection from where it is allowed shows", alive > 0, fmt.Sprint(alive))
	for p, port := range w.Installation.Declared() {
		for _, host := range []string{"127.0.0.1", gateway} {
			try(p+"-"+strings.ReplaceAll(host, ".", "-"), fmt.Sprintf("the platform's %s port at %s", p, host), fmt.Sprintf("%s:%d", host, port))
		}
	}
	return args, names, nil
}

// plainBuild has the kit do the same where nothing is around it, with the secret lying about.
func (w *World) plainBuild(ctx context.Context, r *Record, marker string, args []string) error {
	dir := filepath.Join(w.Scratch, "plain")
	if err := plant(dir, marker); err != nil {
		return err
	}
	plain, err := report(w.runKit(ctx, append([]string{"build", "--root", dir}, local(args)...)...))
	if err != nil {
		return fmt.Errorf("on the plain twin: %w", err)
	}
	through := 0
	for _, a := range plain.Attempts {
		if a.Reached {
			through++
		}
	}
	r.Proven("the same attacks come through on a plain twin", through > len(w.Installation.Declared()), fmt.Sprintf("%d of %d", through, len(plain.Attempts)))
	return nil
}

// local leaves out what leads to other addresses than the loopback's: the twin runs on the host, where an instance's address is
// somebody else's, behind the default route.
func local(args []string) []string {
	var out []string
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] != "--try" || strings.Contains(args[i+1], "=tcp:127.0.0.1:") {
			out = append(out, args[i], args[i+1])
		}
	}
	return out
}

// leftTime is how long a builder may be on its way in or out, its image be taken in, and a source wait for who brought it to ask for its build.
const leftTime = 90 * time.Second

// nothingLeft looks for what was left of builders that are gone, and of sources that nobody builds.
func (w *World) nothingLeft(ctx context.Context, r *Record) error {
	var over map[string]bool
	ran := false
	for end := time.Now().Add(leftTime); ; {
		now, running, err := w.buildersOver()
		if err != nil {
			return err
		}
		if over == nil {
			over = now
		}
		// Another tenant's builder that begins or ends now is another one the next time, or gone.
		maps.DeleteFunc(over, func(path string, _ bool) bool { return !now[path] })
		if ran = ran || running > 0; ran {
			maps.DeleteFunc(over, func(_ string, source bool) bool { return source }) // they may wait for their turn
		}
		if len(over) == 0 || time.Now().After(end) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	r.Refused("leave something of a builder behind", len(over) == 0, strings.Join(slices.Sorted(maps.Keys(over)), ", "))
	return nil
}

// buildersOver is what is there of builders without a process, and, true, of builds, by its file name; running is of how many builders there are processes.
func (w *World) buildersOver() (over map[string]bool, running int, err error) {
	members, err := cgroupMembers("/" + w.Installation.BuildCgroupName() + "/")
	if err != nil {
		return nil, 0, err
	}
	over = map[string]bool{}
	for _, dir := range []string{filepath.Join(w.Installation.RunDir(), "rootfs"), w.Installation.BuildDir()} {
		found, err := filepath.Glob(filepath.Join(dir, "bld_*"))
		if err != nil {
			return nil, 0, err
		}
		for _, path := range found {
			name := filepath.Base(path)
			id, suffix, _ := strings.Cut(name, ".")
			if _, err := bulwark.ParseBuildID(id); err != nil || len(members[id]) > 0 {
				continue
			}
			// A builder has a root, ".in" and ".in.io"; a build has a source, which is ".run" while it runs.
			over[name] = dir == w.Installation.BuildDir() && !strings.HasPrefix(suffix, "in")
		}
	}
	return over, len(members), nil
}

//go:build bench

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// part is a line of docs/edge-profile.md: what a sample's stack has to have in it, all of a list for one of the lists. The first part that fits has it.
type part struct {
	name string
	any  [][]string
}

// edgeParts are asked in this order.
var edgeParts = []part{
	{"firewall", [][]string{{"edge/waf"}, {"coraza"}, {"(*firewall)"}, {"go-re2"}, {"(*exchange).sighted"}}},
	{"Go: garbage collector", [][]string{{"gcBgMarkWorker"}, {"gcAssistAlloc"}, {"bgsweep"}, {"bgscavenge"}, {"gcDrain"}}},
	{"Go: sysmon", [][]string{{"runtime.sysmon"}}},
	{"Go: stacks that are copied", [][]string{{"runtime.copystack"}, {"runtime.newstack"}, {"runtime.morestack"}}},
	{"system call: write to the client", [][]string{{"syscall.write", "(*clientConn).Write"}}},
	{"system call: write to the instance", [][]string{{"syscall.write", "(*exchange).exchange"}}},
	{"system call: read from the instance", [][]string{{"syscall.read", "(*upConn)"}}},
	{"system call: read from the client", [][]string{{"syscall.read"}}},
	{"system call: whether an idle connection stands", [][]string{{"unix.Recvfrom"}}},
	{"Go: sleeping, waking, looking for work", [][]string{{"runtime.ready"}, {"goready"}, {"runtime.wakep"}, {"runtime.startm"}, {"runtime.notewakeup"}, {"entersyscallWakeSysmon"},
		{"runtime.findRunnable"}, {"runtime.schedule"}, {"runtime.park_m"}, {"runtime.mcall"}, {"runtime.stopm"}, {"runtime.gopark"}}},
	{"deadlines", [][]string{{"setDeadlineImpl"}, {"SetDeadline"}, {"SetReadDeadline"}, {"SetWriteDeadline"}, {"runtime.(*timer"}}},
	{"TLS", [][]string{{"crypto/tls"}, {"crypto/internal"}}},
	{"net/http: reading the answer", [][]string{{"net/http.ReadResponse"}}},
	{"net/http h1: reading the request", [][]string{{"net/http.(*conn).readRequest"}}},
	{"net/http h1: writing the answer", [][]string{{"(*response).finishRequest"}, {"(*chunkWriter)"}, {"net/http.(*response)"}}},
	{"net/http h2: header frames out", [][]string{{"http2writeResHeaders"}, {"http2encodeHeaders"}, {"hpack.(*Encoder)"}}},
	{"net/http h2: frames in", [][]string{{"http2Framer).ReadFrame"}, {"processHeaders"}, {"hpack.(*Decoder"}}},
	{"net/http h2: its loop, streams, queue", [][]string{{"http2responseWriter"}, {"http2chunkWriter"}, {"http2serverConn).serve"}, {"http2serverConn).readFrames"},
		{"writeFrameAsync"}, {"startFrameWrite"}}},
	{"edge: header of the answer", [][]string{{"copyHeader"}, {"defaultHeaders).addTo"}}},
	{"edge: head of the request", [][]string{{"appendRequest"}, {"(*exchange).check"}}},
	{"edge: access log", [][]string{{"(*proxy).log"}, {"accessLog"}}},
	{"edge: turns, pace, purse, limits", [][]string{{"(*exchange).passes"}, {"(*turns)"}, {"(*exchange).yield"}, {"(*purse)"}}},
	{"context of the request", [][]string{{"context."}}},
	{"edge: the rest", [][]string{{"internal/edge."}}},
	{"net/http: the rest", [][]string{{"net/http."}}},
}

// benchProfile says where the edge's time goes under the load of benchGet. It takes perf, and a build with symbols.
func benchProfile(b *bench) error {
	const app, long = "bench-profile", 8 * time.Second
	p, err := b.person()
	if err != nil {
		return err
	}
	if err := p.image(app, "1"); err != nil {
		return err
	}
	us, err := b.ours()
	if err != nil {
		return err
	}
	for _, mode := range []string{"off", "detect"} {
		if _, err := p.run("", "bulwark", "shield", app, "waf", mode); err != nil {
			return err
		}
		for _, kind := range []struct {
			name string
			args []string
		}{{"h1", []string{"--h1", "-c", "16"}}, {"h2", []string{"-c", "4", "-m", "8"}}} {
			file := filepath.Join(b.work, "profile-"+mode+"-"+kind.name)
			host := app + "." + domain
			load := exec.Command("h2load", append(kind.args, "-t", "1", "-D", fmt.Sprint(int(long.Seconds())+3), "--connect-to=127.0.0.1:"+us.port, "https://"+host+":"+us.port+"/kilobyte")...)
			if err := load.Start(); err != nil {
				return err
			}
			time.Sleep(time.Second)
			out, err := exec.Command("perf", "record", "-q", "-F", "1999", "-e", "cpu-clock", "-g", "-p", strconv.Itoa(us.pids[0]), "-o", file, "--", "sleep", fmt.Sprint(int(long.Seconds()))).CombinedOutput()
			if err = errors.Join(err, load.Wait()); err != nil {
				return fmt.Errorf("perf record: %w\n%s", err, out)
			}
			parts, samples, err := parted(file)
			if err != nil {
				return err
			}
			names := []string{"others"}
			for _, q := range edgeParts {
				names = append(names, q.name)
			}
			slices.SortStableFunc(names, func(x, y string) int { return parts[y] - parts[x] })
			for _, n := range names {
				if parts[n] > 0 {
					b.add(result{Name: kind.name + ", firewall " + mode + ": " + n, Unit: "%", Ours: digested(100 * float64(parts[n]) / float64(samples)),
						How: fmt.Sprintf("`perf record -e cpu-clock -g` of the edge, %d samples, `h2load %s`", samples, strings.Join(kind.args, " "))}, nil)
				}
			}
		}
	}
	return p.gone(app)
}

// parted counts the samples of a profile by part.
func parted(file string) (parts map[string]int, samples int, err error) {
	out, err := exec.Command("perf", "script", "-i", file, "-F", "comm,ip,sym").Output()
	if err != nil {
		return nil, 0, fmt.Errorf("perf script: %w", err)
	}
	parts = map[string]int{}
	named := false
	for stack := range strings.SplitSeq(string(out), "\n\n") {
		if strings.Count(strings.TrimSpace(stack), "\n") == 0 { // no frame below the program's name
			continue
		}
		named = named || strings.Contains(stack, "internal/edge")
		samples++
		parts[partOf(stack)]++
	}
	if !named {
		return nil, 0, errors.New("the program has no symbols; make bench-edge ONLY=profile LDFLAGS= builds it with them")
	}
	return parts, samples, nil
}

func partOf(stack string) string {
	for _, p := range edgeParts {
		for _, all := range p.any {
			if !slices.ContainsFunc(all, func(w string) bool { return !strings.Contains(stack, w) }) {
				return p.name
			}
		}
	}
	return "others"
}

//go:build bench

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// counter tells what processes spend: instructions, which agree within some percent between a quiet machine and a busy one, and their processor time
// where the machine counts none, as most virtual ones.
type counter struct {
	perf string // path of perf; empty: there is none, or it counts nothing
	work string
	unit string // of what cost returns
	how  string // in words
}

func newCounter(work string) counter {
	c := counter{work: work, unit: "µs", how: "user and system time of the processes (this machine counts no instructions)"}
	path, err := exec.LookPath("perf")
	if err != nil {
		return c
	}
	// It ends without an error where the event is not supported, and says so in the place of the number.
	out, err := exec.Command(path, "stat", "-x", ",", "-e", "instructions", "--", "true").CombinedOutput()
	if n, _ := counted(string(out)); err != nil || n == 0 {
		return c
	}
	c.perf, c.unit, c.how = path, "thousand instructions", "`perf stat -e instructions`, user and kernel, of the processes"
	return c
}

// counted reads the number of perf stat -x.
func counted(out string) (float64, error) {
	for line := range strings.Lines(out) {
		if f := strings.Split(line, ","); len(f) > 2 && strings.HasPrefix(f[2], "instructions") {
			return strconv.ParseFloat(f[0], 64)
		}
	}
	return 0, fmt.Errorf("perf counted nothing: %.500s", out)
}

// cost is what processes spend for a request while f makes so many.
func (c counter) cost(pids []int, requests int, f func() error) (float64, error) {
	if c.perf == "" {
		before, err := processorTime(pids)
		if err == nil {
			err = f()
		}
		if err != nil {
			return 0, err
		}
		after, err := processorTime(pids)
		return float64(after-before) / float64(time.Microsecond) / float64(requests), err
	}
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(pid))
	}
	file := filepath.Join(c.work, "perf-stat")
	cmd := exec.Command(c.perf, "stat", "-x", ",", "-e", "instructions", "-p", strings.Join(list, ","), "-o", file)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	time.Sleep(300 * time.Millisecond) // until it counts; the processes do nothing meanwhile
	err := errors.Join(f(), cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait() // it says that it was interrupted
	text, rerr := os.ReadFile(file)
	if err = errors.Join(err, rerr); err != nil {
		return 0, err
	}
	n, err := counted(string(text))
	return n / 1000 / float64(requests), err
}

// looked is until the firewall has looked at what it was to look at after the answer; it is part of what a request takes.
const looked = 400 * time.Millisecond

// load is what a request takes of a peer, under h2load.
func (c counter) load(at *peer, host string, requests int, args ...string) (float64, error) {
	return c.cost(at.pids, requests, func() error {
		_, err := h2load(host, at.port, requests, args...)
		time.Sleep(looked)
		return err
	})
}

// processorTime is the user and system time of processes.
func processorTime(pids []int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux of today
	var sum time.Duration
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, s := range f[11:13] {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

var (
	loadSpeed = regexp.MustCompile(`finished in [^,]*, ([0-9.]+) req/s`)
	loadGood  = regexp.MustCompile(`status codes: (\d+) 2xx`)
)

// h2load makes requests and returns how many were answered a second; that one failed is an error.
func h2load(host, port string, requests int, args ...string) (float64, error) {
	args = append(args, "-t", "1", "-n", strconv.Itoa(requests), "--connect-to=127.0.0.1:"+port, "https://"+host+":"+port+"/kilobyte")
	out, err := exec.Command("h2load", args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("h2load %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	good, speed := loadGood.FindSubmatch(out), loadSpeed.FindSubmatch(out)
	if good == nil || speed == nil || string(good[1]) != strconv.Itoa(requests) {
		return 0, fmt.Errorf("h2load %s: not every request was answered\n%s", strings.Join(args, " "), out)
	}
	return strconv.ParseFloat(string(speed[1]), 64)
}

// discard reads an answer to its end; one that is no success is an error.
func discard(res *http.Response) (string, error) {
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %.200q", res.Status, text)
	}
	return string(text), err
}

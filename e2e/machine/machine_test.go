//go:build machine

package machine

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	dist  = flag.String("dist", "", "folder of the release")
	cache = flag.String("cache", "/var/cache/bulwark", "folder that keeps the machine's disk")
	keep  = flag.String("keep", "", "folder for the run's disk and logs, which stay there")
	begin = flag.String("begin", "", "story to begin with, on the disk that an earlier run kept")
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		if err := agent(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// machine is the virtual one.
type machine struct {
	t     *testing.T // of the story that is told at the moment
	image string     // folder of the kernel
	dir   string     // of disk, media, socket and logs
	clock string     // -rtc base=…
	accel []string   // of QEMU

	qemu  *exec.Cmd
	ended chan struct{}
	conn  net.Conn

	mu      sync.Mutex
	last    int
	waiting map[int]chan reply
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if *dist == "" {
		t.Fatal("there is no -dist; run it by: make machine")
	}
	m := &machine{t: t, dir: *keep, clock: "utc", accel: accelerator(t)}
	if m.dir == "" {
		dir, err := os.MkdirTemp("", "bwm-")
		if err != nil {
			t.Fatal(err)
		}
		m.dir = dir
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	var err error
	if m.image, err = image(*cache); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(m.dir, "media"))
	if *begin != "" {
		if err := media(*dist, filepath.Join(m.dir, "media")); err != nil {
			t.Fatal(err)
		}
		return m
	}
	os.Remove(filepath.Join(m.dir, "disk"))
	if err := errors.Join(command("cp", "--sparse=always", "--reflink=auto", filepath.Join(m.image, "disk"), filepath.Join(m.dir, "disk")),
		media(*dist, filepath.Join(m.dir, "media"))); err != nil {
		t.Fatal(err)
	}
	return m
}

// slow is how many times longer things may take on this machine.
var slow time.Duration = 1

// accelerator says how QEMU runs the machine: by the processor where it can, which KVM alone does not tell (there are KVMs that
// run kernels made for them, and interpret any other), else by translation, which is slow and runs the same system.
func accelerator(t *testing.T) []string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		if regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm) `).Match(append(info, ' ')) {
			return []string{"-accel", "kvm", "-cpu", "host"}
		}
	}
	t.Logf("THERE IS NO KVM THAT RUNS DEBIAN'S KERNEL (%v): the machine is emulated, and everything on it takes many times longer.", err)
	slow = 6
	return []string{"-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"}
}

// boot turns the machine on and waits until systemd has started the agent.
func (m *machine) boot() {
	m.t.Helper()
	at := func(name string) string { return filepath.Join(m.dir, name) }
	os.Remove(at("agent"))
	console, err := os.OpenFile(at("console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		m.t.Fatal(err)
	}
	m.qemu = exec.Command("qemu-system-x86_64", slices.Concat(m.accel, []string{"-nodefaults", "-no-user-config", "-display", "none", "-smp", "2", "-m", "3584",
		"-nic", "none", "-no-reboot", "-rtc", "base=" + m.clock,
		"-kernel", filepath.Join(m.image, "vmlinuz"), "-initrd", filepath.Join(m.image, "initrd.img"),
		"-append", "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=no",
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + at("disk"), "-drive", "if=virtio,format=raw,readonly=on,file=" + at("media"),
		"-serial", "stdio", "-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + at("agent"), "-device", "virtserialport,chardev=agent,name=" + portName})...)
	m.qemu.Stdout, m.qemu.Stderr = console, console
	// It ends with the test, however that ends.
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := m.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	console.Close()
	m.ended = make(chan struct{})
	go func() { m.qemu.Wait(); close(m.ended) }()
	for {
		if m.conn, err = net.Dial("unix", at("agent")); err == nil {
			break
		}
		select {
		case <-m.ended:
			m.t.Fatal("QEMU ended at once:\n" + m.console())
		case <-time.After(50 * time.Millisecond):
		}
	}
	up := make(chan struct{})
	m.waiting = map[int]chan reply{}
	go m.listen(m.conn, up)
	select {
	case <-up:
		m.t.Logf("the machine was up after %s", time.Since(began).Round(100*time.Millisecond))
	case <-m.ended:
		m.t.Fatal("the machine went off:\n" + m.console())
	case <-time.After(2 * time.Minute * slow):
		m.t.Fatal("the machine says nothing:\n" + m.console())
	}
}

func (m *machine) listen(conn net.Conn, up chan struct{}) {
	in := json.NewDecoder(conn)
	for {
		var r reply
		if err := in.Decode(&r); err != nil {
			return // who waits has a time-out, and watches the machine
		}
		if r.ID == 0 {
			select {
			case <-up:
			default:
				close(up)
			}
			continue
		}
		m.mu.Lock()
		if c := m.waiting[r.ID]; c != nil {
			c <- r
		}
		m.mu.Unlock()
	}
}

// cut takes the machine's power away. What its kernel had not written yet is lost.
func (m *machine) cut() {
	m.qemu.Process.Kill()
	<-m.ended
	m.conn.Close()
}

func (m *machine) console() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "console.log"))
	return string(b[max(0, len(b)-6000):])
}

var errOff = errors.New("the machine is off")

// ask has the agent do something, and returns at once; the answer comes by the channel.
func (m *machine) ask(q request) <-chan reply {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	q.ID = m.last
	if q.Timeout == 0 {
		q.Timeout = time.Minute * slow
	}
	c := make(chan reply, 1)
	m.waiting[q.ID] = c
	b, _ := json.Marshal(q)
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		c <- reply{Failed: err.Error()}
	}
	return c
}

// await waits for an answer.
func (m *machine) await(c <-chan reply, wait time.Duration) reply {
	select {
	case r := <-c:
		return r
	case <-m.ended:
		return reply{Failed: errOff.Error()}
	case <-time.After(wait):
		return reply{Failed: "the machine does not answer"}
	}
}

func (m *machine) do(q request) reply {
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 5*time.Second {
			m.t.Logf("%s took %s", strings.Join(q.Args, " "), took.Round(100*time.Millisecond))
		}
	}()
	if q.Timeout == 0 {
		q.Timeout = time.Minute * slow
	}
	return m.await(m.ask(q), q.Timeout+20*time.Second)
}

// try runs a program as root and lets it fail.
func (m *machine) try(args ...string) reply { return m.do(request{Args: args}) }

// root runs a program as root, and returns what it wrote.
func (m *machine) root(args ...string) string {
	m.t.Helper()
	return m.good(request{Args: args})
}

// ada runs a program as the person who deploys.
func (m *machine) ada(dir string, args ...string) string {
	m.t.Helper()
	return m.good(request{User: "ada", Dir: home(dir), Args: args, Timeout: 3 * time.Minute * slow})
}

func (m *machine) tryAda(dir string, args ...string) reply {
	return m.do(request{User: "ada", Dir: home(dir), Args: args, Timeout: 3 * time.Minute * slow})
}

func home(dir string) string { return filepath.Join("/home/ada", dir) }

func (m *machine) good(q request) string {
	m.t.Helper()
	r := m.do(q)
	if r.Failed != "" || r.Code != 0 {
		m.t.Fatalf("%s failed with %d %s\n%s%s%s", strings.Join(q.Args, " "), r.Code, r.Failed, r.Out, r.Err, m.journal())
	}
	return r.Out + r.Err
}

// journal is what the machine says for itself.
func (m *machine) journal() string {
	select {
	case <-m.ended:
		return "\nconsole:\n" + m.console()
	default:
	}
	out := ""
	for _, args := range [][]string{{"journalctl", "--no-pager", "-n", "40", "-o", "short-precise"}, {"tail", "-n", "15", "-q", "/var/lib/bulwark/logs/node.log", "/var/lib/bulwark/logs/server.log"}} {
		if r := m.await(m.ask(request{Args: args, Timeout: 20 * time.Second}), 30*time.Second); r.Failed == "" {
			out += "\n--- " + strings.Join(args, " ") + "\n" + r.Out
		}
	}
	return out
}

// write makes files of ada's, or of root's if the path is absolute.
func (m *machine) write(path, text string) {
	m.t.Helper()
	q := request{Write: path, Input: text}
	if !filepath.IsAbs(path) {
		q.User, q.Write = "ada", home(path)
	}
	if r := m.do(q); r.Failed != "" {
		m.t.Fatal(r.Failed)
	}
}

// want fails unless got matches.
func (m *machine) want(got, pattern string) {
	m.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		m.t.Fatalf("this should match %q:\n%s%s", pattern, got, m.journal())
	}
}

// until asks again and again, for a time.
func (m *machine) until(wait time.Duration, what string, ok func() bool) {
	m.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > wait*slow {
			m.t.Fatalf("after %s still not: %s%s", wait, what, m.journal())
		}
		time.Sleep(200 * time.Millisecond)
	}
	m.t.Logf("%s: after %s", what, time.Since(began).Round(100*time.Millisecond))
}

// get fetches a page of an app over HTTPS, verified.
func (m *machine) get(app, path string) reply {
	return m.do(request{User: "ada", Args: []string{"curl", "-sS", "--noproxy", "*", "--max-time", "30", "-w", "\n%{http_code}", "https://" + app + ".bulwark.localhost" + path},
		Timeout: time.Minute})
}

// serves waits until an app answers with 200 and text that matches.
func (m *machine) serves(app, pattern string) {
	m.t.Helper()
	var r reply
	defer func() {
		if m.t.Failed() {
			m.t.Logf("%s answered last: %+v", app, r)
		}
	}()
	m.until(30*time.Second, app+" serves "+pattern, func() bool {
		r = m.get(app, "/")
		return r.Code == 0 && strings.HasSuffix(r.Out, "\n200") && regexp.MustCompile(pattern).MatchString(r.Out)
	})
}

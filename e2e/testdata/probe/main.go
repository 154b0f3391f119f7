// Command probe is the app of the stories: it serves what they look at, and misbehaves in each way that they are about.
// Its first argument says how.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	port := os.Getenv("PORT")
	switch mode {
	case "deaf": // runs and listens nowhere
		log.Print("listening to nobody")
		forever()
	case "elsewhere": // on another port than it was given
		port = "9999"
	case "loopback": // where nobody can reach it, by a common mistake
		log.Fatal(http.ListenAndServe("127.0.0.1:1", nil))
	case "crash":
		log.Fatal("the database is away")
	case "exit0":
		log.Print("all done")
		os.Exit(0)
	case "stubborn": // does not end when it is asked to
		signal.Ignore(syscall.SIGTERM)
	case "worker":
		log.Print("working")
		forever()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", hello)
	mux.HandleFunc("POST /{$}", echo)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getenv(r.FormValue("name"))) })
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /proto", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Proto, r.Header.Get("Client-Cert")) })
	mux.HandleFunc("GET /trace", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Header.Get("Traceparent")) })
	mux.HandleFunc("GET /page", page)
	mux.HandleFunc("GET /kilobyte", kilobyte)
	mux.HandleFunc("POST /kilobyte", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); kilobyte(w, r) })
	mux.HandleFunc("GET /socket", socket)
	mux.HandleFunc("GET /attack", attack)
	mux.HandleFunc("GET /die", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	srv := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	if mode != "stubborn" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		go func() {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			srv.Shutdown(grace)
			os.Exit(0)
		}()
	}
	log.Print("listening on ", srv.Addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	forever() // until Shutdown has ended
}

// forever waits; Go ends a program in which nothing else could happen.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// hello says which version answers, in which release and instance.
func hello(w http.ResponseWriter, _ *http.Request) {
	version, _ := os.ReadFile("/VERSION")
	fmt.Fprintf(w, "version=%s release=%s instance=%s greeting=%s\n", strings.TrimSpace(string(version)), os.Getenv("BULWARK_RELEASE"),
		os.Getenv("BULWARK_INSTANCE"), os.Getenv("GREETING"))
}

func echo(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }

// kilobyte answers with 1 KiB, as cheaply as can be.
func kilobyte(w http.ResponseWriter, _ *http.Request) { w.Write(kilo[:]) }

var kilo = [1024]byte{}

// socket gives back every byte that comes behind an upgrade.
func socket(w http.ResponseWriter, _ *http.Request) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	io.Copy(c, buffered)
}

func slow(w http.ResponseWriter, r *http.Request) {
	ms, _ := strconv.Atoi(r.FormValue("ms"))
	time.Sleep(time.Duration(ms) * time.Millisecond)
	fmt.Fprintln(w, "slow")
}

// attack tries what an instance must not be able to do, and says how each went: "refused: why", or "ALLOWED: what came of it".
func attack(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	out := map[string]string{}
	try := func(name string, f func() (string, error)) {
		got, err := f()
		if err != nil {
			out[name] = "refused: " + err.Error()
			return
		}
		out[name] = "ALLOWED: " + got
	}
	for _, to := range q["tcp"] {
		try("tcp "+to, func() (string, error) { return connect(to) })
	}
	for _, name := range q["read"] {
		try("read "+name, func() (string, error) { return read(name) })
	}
	for _, dir := range q["write"] {
		try("write "+dir, func() (string, error) {
			name := filepath.Join(dir, "e2e")
			defer os.Remove(name)
			return "wrote " + name, os.WriteFile(name, []byte("x"), 0o600)
		})
	}
	if q.Has("system") {
		system(try)
	}
	out["who"] = who()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	enc.Encode(out)
}

func read(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err == nil && len(b) == 0 { // what is masked reads so
		err = errors.New("nothing is in it")
	}
	return fmt.Sprintf("%d bytes: %.80q", len(b), b), err
}

func connect(to string) (string, error) {
	c, err := net.DialTimeout("tcp", to, time.Second)
	if err != nil {
		return "", err
	}
	c.Close()
	return "connected", nil
}

// system tries system calls.
func system(try func(string, func() (string, error))) {
	call := func(name string, nr, a, b, c uintptr) {
		try(name, func() (string, error) {
			runtime.LockOSThread() // and never unlocked: what came of it ends with the goroutine
			r, _, errno := syscall.RawSyscall6(nr, a, b, c, 0, 0, 0)
			if errno != 0 {
				return "", errno
			}
			return fmt.Sprint(r), nil
		})
	}
	apart := func(name string, nr, a, b, c uintptr) {
		done := make(chan struct{})
		go func() { defer close(done); call(name, nr, a, b, c) }()
		<-done
	}
	const newUser, newNet, newNS = 0x10000000, 0x40000000, 0x20000
	apart("unshare user", syscall.SYS_UNSHARE, newUser, 0, 0)
	apart("unshare net", syscall.SYS_UNSHARE, newNet, 0, 0)
	apart("unshare mount", syscall.SYS_UNSHARE, newNS, 0, 0)
	apart("ptrace 1", syscall.SYS_PTRACE, 16 /* ATTACH */, 1, 0)
	apart("setuid 0", syscall.SYS_SETUID, 0, 0, 0)
	apart("socket raw", syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)
	apart("socket packet", syscall.SYS_SOCKET, syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	apart("socket alg", syscall.SYS_SOCKET, 38, syscall.SOCK_SEQPACKET, 0)
	apart("socket vsock", syscall.SYS_SOCKET, 40, syscall.SOCK_STREAM, 0)
	apart("bpf", 321, 0, 0, 0)
	apart("io_uring_setup", 425, 1, 0, 0)
	apart("keyctl", 250, 0, 0, 0)
	apart("userfaultfd", 323, 0, 0, 0)
	try("mount", func() (string, error) { return "mounted", syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, "") })
	try("chroot", func() (string, error) { return "done", syscall.Chroot("/tmp") })
	try("mknod", func() (string, error) { return "made", syscall.Mknod("/tmp/sda", syscall.S_IFBLK|0o600, 8<<8) })
	try("sethostname", func() (string, error) { return "set", syscall.Sethostname([]byte("x")) })
	try("kill outside", func() (string, error) {
		for pid := 2; pid < 40000; pid++ {
			if pid != os.Getpid() && syscall.Kill(pid, 0) == nil {
				// Threads answer as processes do: its own, and those of the first process of the instance.
				_, err1 := os.Stat(fmt.Sprintf("/proc/1/task/%d", pid))
				_, err2 := os.Stat(fmt.Sprintf("/proc/self/task/%d", pid))
				if err1 != nil && err2 != nil && syscall.Kill(pid, 0) == nil {
					return fmt.Sprintf("process %d is seen", pid), nil
				}
			}
		}
		return "", errors.New("no other process is seen")
	})
	try("exec from /tmp", func() (string, error) {
		b, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return "", err
		}
		if err := os.WriteFile("/tmp/copy", b, 0o700); err != nil {
			return "", err
		}
		defer os.Remove("/tmp/copy")
		p, err := os.StartProcess("/tmp/copy", []string{"copy", "exit0"}, &os.ProcAttr{})
		if err != nil {
			return "", err
		}
		p.Wait()
		return "ran", nil
	})
}

// who is what the kernel says of this process.
func who() string {
	var lines []string
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		for _, key := range []string{"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"} {
			if strings.HasPrefix(line, key) {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	if m, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		lines = append(lines, "Map: "+strings.Join(strings.Fields(string(m)), " "))
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		lines = append(lines, "Addr: "+a.String())
	}
	return strings.Join(lines, "; ")
}

// page is HTML of some length, with headers that are looser than the edge's.
func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("X-Frame-Options", "ALLOWALL")
	w.Header().Set("Referrer-Policy", "no-referrer")
	for range 100 {
		fmt.Fprintln(w, "<p>It was a dark and stormy night.</p>")
	}
}

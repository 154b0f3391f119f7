package kit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// greed is the hidden subcommand that takes; exhaust starts it, and lives on when it is killed.
const greed = "greed"

// kinds are what can be exhausted.
func kinds() []string { return []string{"memory", "pids", "files", "disk", "cpu"} }

// exhaust takes as much of a thing as it gets, keeps taking until its time is over, and says how far it came. It runs only
// in a user namespace that is not the host's: what it would take elsewhere is everybody's.
func exhaust(o *options, stdout, stderr io.Writer) error {
	if o.what == "" || o.seconds == 0 {
		return fmt.Errorf("%w: exhaust needs --what and --seconds", errUsage)
	}
	if atHost("user") {
		return errors.New("this is no instance: what is taken here is taken from the whole machine")
	}
	warm()
	s := newScene(o)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := s.startWith([]string{greed, "--what", o.what, "--seconds", strconv.Itoa(o.seconds), "--dir", o.dir}, &syscall.SysProcAttr{Setpgid: true}, w)
	w.Close()
	if err != nil {
		return err
	}
	late := time.AfterFunc(time.Duration(o.seconds)*time.Second+attemptTime, func() { _ = unix.Kill(-p.Pid, unix.SIGKILL) })
	defer late.Stop()
	f := map[string]string{"what": o.what, "amount": "0", "ended": "killed"}
	for in := bufio.NewScanner(r); in.Scan(); {
		// AMOUNT WHY, of which the last counts: whoever is killed says no more.
		amount, why, _ := strings.Cut(in.Text(), " ")
		f["amount"], f["ended"] = amount, "killed"
		if why != "" {
			f["ended"] = why
		}
		fmt.Fprintf(stderr, "%s %s\n", o.what, in.Text())
	}
	state, err := p.Wait()
	if err != nil {
		return err
	}
	f["process"] = state.String()
	return (&Report{Facts: f}).write(stdout)
}

// warm has the runtime take the threads and descriptors that it needs while there are any: it dies when it gets none.
func warm() {
	const threads = 8
	var ready, end sync.WaitGroup
	ready.Add(threads)
	end.Add(1)
	for range threads {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // so that the thread stays, idle
			ready.Done()
			end.Wait()
		}()
	}
	ready.Wait()
	end.Done()
	time.Sleep(time.Millisecond) // its clock takes a descriptor
}

// taking is one thing that is taken: more takes a portion and returns how much it was.
type taking struct {
	more func() (int64, error)
	done func() // gives it back, as far as the end of the process does not
}

// takeAll takes until the time is over, and says now and then how far it came.
func takeAll(o *options, stdout io.Writer) error {
	warm()
	runtime.LockOSThread() // what it starts ends with this thread
	end := time.Now().Add(time.Duration(o.seconds) * time.Second)
	if o.what == "cpu" {
		return spin(end, stdout)
	}
	t, err := takings(o)
	if err != nil {
		return err
	}
	defer t.done()
	var have, most, said int64
	var last error
	for time.Now().Before(end) {
		n, err := t.more()
		have += n
		most = max(most, have)
		if err != nil {
			last = err
			time.Sleep(10 * time.Millisecond) // and once more: greed does not stop at a refusal
		}
		if most >= 2*said || most-said >= 64<<20 {
			said = most
			fmt.Fprintf(stdout, "%d\n", most)
		}
	}
	why := "the time was over"
	if last != nil {
		why = "refused: " + last.Error()
	}
	fmt.Fprintf(stdout, "%d %s\n", most, why)
	return nil
}

func takings(o *options) (taking, error) {
	switch o.what {
	case "memory":
		return taking{more: takeMemory, done: func() {}}, nil
	case "pids":
		return takePids(), nil
	case "files":
		return takeFiles(), nil
	case "disk":
		return takeDisk(o.dir)
	}
	return taking{}, fmt.Errorf("%w: nothing is called %q", errUsage, o.what)
}

// takeMemory maps a portion, and writes to each page of it.
func takeMemory() (int64, error) {
	const portion = 4 << 20
	b, err := unix.Mmap(-1, 0, portion, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = byte(i>>12) | 1
	}
	return portion, nil
}

// takePids starts processes that wait.
func takePids() taking {
	var pids []int
	return taking{
		more: func() (int64, error) {
			pid := forkCall(unix.SYS_PPOLL, &[6]uintptr{}, 0)
			if pid < 0 {
				return 0, unix.Errno(-pid)
			}
			pids = append(pids, pid)
			return 1, nil
		},
		done: func() {
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			for _, pid := range pids {
				_, _ = unix.Wait4(pid, nil, 0, nil)
			}
		},
	}
}

// takeFiles opens files as far as its limits go, which it raises first.
func takeFiles() taking {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		for _, hard := range []uint64{1 << 30, limit.Max} {
			if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: hard, Max: hard}) == nil {
				break
			}
		}
	}
	return taking{more: func() (int64, error) {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil || fd < 0 {
			return 0, err
		}
		return 1, nil
	}, done: func() {}}
}

// takeDisk writes to files without a name, which are gone with the process. A file as large as one may be is followed by
// the next.
func takeDisk(dir string) (taking, error) {
	b := slices.Repeat([]byte("bulwark-kit takes all the room. "), 1<<15)
	var files []*os.File
	next := func() error {
		f, err := os.CreateTemp(filepath.Clean(dir), ".bulwark-kit-")
		if err != nil {
			return err
		}
		files = append(files, f)
		return os.Remove(f.Name())
	}
	if err := next(); err != nil {
		return taking{}, err
	}
	return taking{more: func() (int64, error) {
		n, err := files[len(files)-1].Write(b)
		if errors.Is(err, unix.EFBIG) {
			err = next()
		}
		return int64(n), err
	}, done: func() {
		for _, f := range files {
			f.Close()
		}
	}}, nil
}

// spin computes on every processor, and says how many milliseconds of them it had.
func spin(end time.Time, stdout io.Writer) error {
	n := runtime.NumCPU()
	runtime.GOMAXPROCS(2 * n)
	for range 2 * n {
		go func() {
			for x := uint64(1); x != 0; x += 2 { // odd for ever: it ends with the process
				runtime.KeepAlive(x)
			}
		}()
	}
	for time.Now().Before(end) {
		time.Sleep(min(time.Second, time.Until(end)))
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%d the time was over\n", (u.Utime.Nano()+u.Stime.Nano())/int64(time.Millisecond))
	}
	return nil
}

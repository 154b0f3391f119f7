// Command hostile plays a helper program that a stranger has taken over. It says "did" for what it could do.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	play := map[string]func() error{
		"memory": func() error {
			var all [][]byte
			for {
				b := make([]byte, 8<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				all = append(all, b)
				_ = all
			}
		},
		"compute": func() error {
			for i := 0; ; i++ {
				_ = i * i
			}
		},
		"sleep": func() error { time.Sleep(time.Hour); return nil },
		"threads": func() error {
			for range 5000 {
				go func() { _ = syscall.Nanosleep(&syscall.Timespec{Sec: 3600}, nil) }()
			}
			time.Sleep(time.Hour)
			return nil
		},
		"file": func() error {
			b := make([]byte, 1<<20)
			f, err := os.Create("big")
			for err == nil {
				_, err = f.Write(b)
			}
			return err
		},
		"disk": func() error {
			b := make([]byte, 1<<20)
			for i := 0; ; i++ {
				if err := os.WriteFile(fmt.Sprint("f", i), b, 0o644); err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond)
			}
		},
		"names": func() error {
			for i := 0; ; i++ {
				if err := os.Mkdir(fmt.Sprint("d", i), 0o755); err != nil {
					return err
				}
				time.Sleep(100 * time.Microsecond)
			}
		},
		"honest": func() error { return os.WriteFile("result", []byte("done"), 0o644) },
		"read":   func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		"write":  func() error { return os.WriteFile("/tmp/of-a-cell", nil, 0o644) },
		"list":   func() error { _, err := os.ReadDir("/proc"); return err },
		"exec":   func() error { return exec.Command("/bin/true").Run() },
		"own": func() error { // what it has written itself
			b, err := os.ReadFile(os.Args[0])
			if err != nil {
				return err
			}
			if err := os.WriteFile("own", b, 0o755); err != nil {
				return err
			}
			wd, _ := os.Getwd()
			return exec.Command(filepath.Join(wd, "own"), "honest").Run()
		},
		"connect": func() error { _, err := net.Dial("tcp", os.Args[2]); return err },
		"unix":    func() error { _, err := net.Dial("unix", os.Args[2]); return err },
		"pipe":    func() error { return syscall.Mkfifo("pipe", 0o644) },
		"fork": func() error { // and hope that the child lives on
			pid, err := syscall.ForkExec(os.Args[0], []string{os.Args[0], "sleep"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
			if err == nil && pid > 1 {
				os.Exit(0)
			}
			return err
		},
		"userns": func() error {
			_, err := syscall.ForkExec(os.Args[0], []string{os.Args[0], "honest"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}})
			return err
		},
		"user": func() error { return syscall.Setuid(0) },
	}[os.Args[1]]
	if play == nil {
		os.Exit(3)
	}
	if err := play(); err != nil {
		fmt.Println(err)
		if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			os.Exit(13)
		}
		os.Exit(1)
	}
	fmt.Println("did")
}

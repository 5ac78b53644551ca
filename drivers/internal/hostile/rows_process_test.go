//go:build linux

package hostile

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
)

// processRows are about what a process can do with itself.
var processRows = []row{
	{name: "process: exits before its hello", hello: func(*peer) error { return exit() }, role: "worker", start: gone},
	{name: "process: exits after its hello", hello: func(p *peer) error {
		_ = p.sayHello()
		return exit()
	}, links: true, driver: "socket", role: "worker", end: gone},
	{name: "process: exits before its confirmation", hello: func(p *peer) error {
		_ = p.link(p.sayHello)
		return exit()
	}, confirms: true, driver: "shm", role: "worker", start: gone},
	{name: "process: exits after its confirmation", hello: func(p *peer) error {
		_ = p.link(p.sayHello)
		return exit()
	}, links: true, driver: "shm", role: "worker", end: gone},
	{name: "process: exits at work", act: began(func(*peer) { _ = exit() }), role: "worker", end: gone},
	{name: "process: exits in the middle of a message", act: began(func(p *peer) {
		if p.driver == "shm" {
			p.begin(100_000, 1000)
		} else {
			p.writes(prefix(100_000, byte(drivers.KindResponse)))
		}
		_ = exit()
	}), role: "worker", end: gone},
	{name: "process: runs another program", act: began(func(*peer) {
		_ = syscall.Exec("/bin/true", []string{"true"}, nil)
	}), role: "worker", end: gone},
	{name: "process: a host exits at work", act: began(func(*peer) { os.Exit(0) }), role: "host", end: gone,
		also: []string{closed}, either: true}, // SIGTERM may come first
	{name: "process: closes all its descriptors", act: began(func(*peer) {
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds { // but those of the runtime
			what, _ := os.Readlink(fd)
			n, err := strconv.Atoi(filepath.Base(fd))
			if err == nil && (strings.HasPrefix(what, "socket:") || strings.HasPrefix(what, "pipe:") || strings.HasPrefix(what, "/memfd:")) {
				_ = syscall.Close(n)
			}
		}
	}), role: "worker", end: gone},
	{name: "process: stops", act: began(func(*peer) { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }), end: timeout},
	{name: "process: stops, with a heartbeat", act: began(func(*peer) { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }),
		role: "worker", heartbeat: true, end: gone, also: []string{timeout}, either: true},
	{name: "process: stops before its hello", hello: func(*peer) error { return syscall.Kill(os.Getpid(), syscall.SIGSTOP) }, role: "worker", start: timeout},
	{name: "process: ignores SIGTERM", act: func(p *peer) error {
		signal.Ignore(syscall.SIGTERM)
		return neverAnswer(p)
	}, role: "worker", end: timeout},
	{name: "process: leaves a child that has its descriptors", act: began(func(p *peer) {
		control, err := p.control.File()
		if err != nil {
			return
		}
		child := exec.Command("sleep", "5")
		child.ExtraFiles = []*os.File{control}
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = child.Start()
		_ = exit()
	}), role: "worker", end: gone},
	{name: "process: writes without end to stdout and stderr", act: harmless(func(*peer) {
		var all sync.WaitGroup
		for i, f := range []*os.File{os.Stdout, os.Stderr} {
			all.Go(func() {
				b, n := bytes.Repeat([]byte{'x'}, 1<<20), 64 // one line
				if i == 0 {
					b, n = bytes.Repeat([]byte("y\n"), 1<<17), 16 // two million
				}
				if raceEnabled {
					n /= 8
				}
				for range n {
					_, _ = f.Write(b)
				}
			})
		}
		all.Wait()
	}), role: "worker", captured: true, serves: true, end: right},
	{name: "process: says goodbye, and stays", act: func(p *peer) error {
		p.send(drivers.Frame{Kind: drivers.KindGoodbye})
		return neverAnswer(p)
	}, role: "worker", end: timeout},
}

// exit ends the process as a failure does.
func exit() error {
	os.Exit(3)
	return nil
}

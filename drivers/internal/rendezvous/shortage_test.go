//go:build linux

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
)

// Whatever fails for want of descriptors says so, and leaves neither descriptors nor files.
func TestShortages(t *testing.T) {
	out, err := helper(t, "shortage", tempDir(t)).Output()
	require.NoError(t, err, string(out))
}

func init() {
	// shortage DIR: tries each call with few descriptors and more.
	helpers["shortage"] = func(args []string) error {
		for what, try := range map[string]attempt{
			"listen": tryListen, "replace": tryReplace, "dial": tryDial, "take over": tryTakeover, "hand on": tryFile, "services": tryServices, "serve": tryServe,
		} {
			if err := sweep(args[0]+"/"+what, try); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		return nil
	}
}

// attempt prepares something in a directory, and returns what is to be tried and what cleans up after that.
type attempt func(dir string) (try, undo func() error, err error)

// sweep makes attempts with more and more descriptors.
func sweep(dir string, prepare attempt) error {
	refused := 0
	const steps = 24
	for free := range steps {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		before := leaktest.NewBaseline()
		try, undo, err := prepare(dir)
		if err != nil {
			return err
		}
		var failed error
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(free), func() { failed = try() }); err != nil {
			return err
		}
		if failed != nil && !errors.Is(failed, ipc.ErrExhausted) {
			return fmt.Errorf("with %d files: %w", free, failed)
		}
		if failed != nil {
			refused++
		}
		if err := undo(); err != nil {
			return fmt.Errorf("with %d files: undo: %w", free, err)
		}
		if leaks := before.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("with %d files: %v", free, leaks)
		}
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("with %d files: %w", free, err)
		}
	}
	if refused == 0 || refused == steps {
		return fmt.Errorf("%d of %d refused: the sweep has missed the border", refused, steps)
	}
	return nil
}

func tryListen(dir string) (try, undo func() error, err error) {
	var l *Listener
	try = func() (err error) { l, err = Listen(dir+"/s", ListenOptions{}); return err }
	return try, func() error {
		if l == nil {
			return nil
		}
		return l.Close()
	}, nil
}

// tryReplace listens where a process has ended. If that fails its socket is left.
func tryReplace(dir string) (try, undo func() error, err error) {
	old, err := Listen(dir+"/s", ListenOptions{})
	if err != nil {
		return nil, nil, err
	}
	old.Keep()
	try, end, _ := tryListen(dir)
	return try, func() error {
		if err := end(); err != nil {
			return err
		}
		if err := os.Remove(dir + "/s"); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}, old.Close()
}

func tryDial(dir string) (try, undo func() error, err error) {
	l, err := Listen(dir+"/s", ListenOptions{})
	return func() error {
		conn, _, err := Dial(context.Background(), dir+"/s", DialOptions{})
		if err == nil {
			conn.Close()
		}
		return err
	}, func() error { return l.Close() }, err
}

func tryTakeover(dir string) (try, undo func() error, err error) {
	l, err := Listen(dir+"/s", ListenOptions{})
	if err != nil {
		return nil, nil, err
	}
	f, err := l.File()
	var next *Listener
	try = func() (err error) { next, err = FromFile(f, dir+"/s"); return err }
	return try, func() error {
		f.Close()
		if next != nil {
			l.Keep()
			return errors.Join(l.Close(), next.Close())
		}
		return l.Close()
	}, err
}

func tryFile(dir string) (try, undo func() error, err error) {
	l, err := Listen(dir+"/s", ListenOptions{})
	return func() error {
		f, err := l.File()
		if err == nil {
			err = f.Close()
		}
		return err
	}, func() error { return l.Close() }, err
}

// tryServices lists what there is: all of it, or nothing.
func tryServices(dir string) (try, undo func() error, err error) {
	if err := os.Setenv("XDG_RUNTIME_DIR", dir); err != nil {
		return nil, nil, err
	}
	var all []*Listener
	for _, name := range []string{"a", "b"} {
		l, err := Listen(name, ListenOptions{})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, l)
	}
	return func() error {
			found, err := Services()
			if err == nil && (len(found) != 2 || found[0].PID == 0 || found[1].PID == 0) {
				err = fmt.Errorf("found %v", found)
			}
			return err
		}, func() error {
			return errors.Join(all[0].Close(), all[1].Close(), os.Remove(dir+"/tandem"))
		}, nil
}

// tryServe serves until nobody more is to come. It needs a reserve.
func tryServe(dir string) (try, undo func() error, err error) {
	l, err := Listen(dir+"/s", ListenOptions{})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return func() error {
		err := Serve(ended, l, Gate{}, echo)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}, func() error { return l.Close() }, err
}

package worker

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
)

// selfPrefix opens argument 0 of a process that Self describes, where ps shows it.
const selfPrefix = "tandem-worker:"

// noTests makes a test binary run no tests.
const noTests = "-test.run=^$"

// entered is set when Main has run the entry that this process was started for.
var entered atomic.Bool

// argumentsOfSelf are those that the process has if it was started as Self and is a
// test binary; nil if not.
var argumentsOfSelf []string

// A test binary that does not call Main would run its tests as a worker: maybe those
// that start it as one.
func init() {
	info, ok := debug.ReadBuildInfo()
	startup, err := drivers.LoadStartup()
	if (startup != nil || err != nil) && strings.HasPrefix(os.Args[0], selfPrefix) && ok && strings.HasSuffix(info.Path, ".test") {
		argumentsOfSelf = os.Args
		os.Args = slices.Insert(slices.Clone(os.Args), 1, noTests)
	}
}

// Self returns a command that runs this program again, as a worker: there [Main] with the
// same name runs its entry. So one program can be both host and worker, also with go run.
// Arguments for the worker can be appended to the command's Args.
func Self(name string) *exec.Cmd {
	path, err := os.Executable()
	if runtime.GOOS == "linux" {
		// The very file that runs, even if it was replaced or removed meanwhile.
		path, err = "/proc/self/exe", nil
	}
	return &exec.Cmd{Path: path, Args: []string{selfPrefix + name}, Err: err}
}

// Main does nothing, unless a host started this process with [Self] and the same name.
// Then it runs entry and ends the process. Call it first in main, or in TestMain, once
// for each name. If entry fails, or if what the host passed cannot be read, Main writes
// the error to stderr, and the exit code is 1.
func Main(name string, entry func() error) {
	if os.Args[0] != selfPrefix+name {
		return
	}
	startup, err := drivers.LoadStartup()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if startup == nil {
		return
	}
	entered.Store(true)
	if argumentsOfSelf != nil {
		os.Args = argumentsOfSelf
	}
	if err := entry(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// checkEntry fails in a process that was started for an entry that it does not
// have: as a host it would start itself again and again.
func checkEntry() error {
	name, isWorker := strings.CutPrefix(os.Args[0], selfPrefix)
	if !isWorker || entered.Load() {
		return nil
	}
	return refuse(fmt.Errorf("tandem: this process was started as worker.Self(%q), but main has not called worker.Main(%q, ...)", name, name))
}

// refuse tells the host, if there is one, and the caller why this process is no worker.
func refuse(reason error) error {
	if s := drivers.Startup(); s != nil {
		_ = s.RefuseFor(reason) // the reason itself is returned as well
	}
	return reason
}

// hint returns what to ask about a command whose process says no hello.
func hint(cmd *exec.Cmd, driver any) string {
	if name, ok := strings.CutPrefix(cmd.Args[0], selfPrefix); ok {
		return fmt.Sprintf("does its main, or TestMain, call worker.Main(%q, ...) first, and that worker.Server.Serve?", name)
	}
	return fmt.Sprintf("does its program call worker.Server.Serve, and import _ %q?", importPath(driver))
}

package drivertest

import (
	"fmt"
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers"
)

// Main is the whole of a TestMain. It does not return: in a process that a host
// has started it runs the worker's side of the suite, otherwise the tests of m
// under [VerifyNoLeaks].
//
// A package whose tests have workers of their own looks at [drivers.Startup] first.
func Main(m *testing.M) {
	if s, err := drivers.LoadStartup(); s != nil || err != nil {
		os.Exit(work(s, err))
	}
	os.Exit(VerifyNoLeaks(m.Run))
}

// stderr is the file that stays when [Quiet] has replaced os.Stderr.
var stderr = os.Stderr

// Quiet returns run for tests whose workers crash on purpose: while it runs, what
// workers write to a stderr that nobody has redirected is dropped. It is still
// in the errors.
func Quiet(run func() int) func() int {
	return func() int {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer null.Close()
		defer func() { os.Stderr = stderr }()
		os.Stderr = null // package testing writes to stdout
		return run()
	}
}

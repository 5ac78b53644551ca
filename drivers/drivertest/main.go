package drivertest

import (
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

package drivers_test

import (
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
)

// childEnv makes the test binary do one of children instead of running tests.
const childEnv = "TANDEM_TEST_CHILD"

var children = make(map[string]func())

func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv(childEnv); ok {
		children[name]()
		os.Exit(0)
	}
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

package broadcast

import (
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// helpers are what the test binary does when a test starts it again as another process.
var helpers = map[string]func(args []string){}

const helperEnv = "TANDEM_BROADCAST_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(leaktest.VerifyNoLeaks(m.Run))
}

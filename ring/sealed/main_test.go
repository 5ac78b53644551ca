package sealed

import (
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
)

// helpers are what the test binary does when a test starts it again as another process.
var helpers = map[string]func(args []string){}

const helperEnv = "TANDEM_SEALED_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

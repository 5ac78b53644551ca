package ipc_test

import (
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
)

// helpers are what the test binary does when a test starts it again as another process,
// which is no worker. An error ends up on stderr.
var helpers = map[string]func() error{}

const helperEnv = "TANDEM_IPC_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	drivertest.Main(m)
}

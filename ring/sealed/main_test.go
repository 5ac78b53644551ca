package sealed_test

import (
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ring/sealed"
)

// TestMain is outside of the package, for what it imports uses the package.
func TestMain(m *testing.M) {
	if name := os.Getenv(sealed.HelperEnv); name != "" {
		sealed.Helpers[name](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

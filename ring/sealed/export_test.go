package sealed

// helpers are what the test binary does when a test starts it again as another process.
var helpers = map[string]func(args []string){}

const helperEnv = "TANDEM_SEALED_TEST_HELPER"

// For tests that import what imports this package.
var Helpers = helpers

const (
	HelperEnv   = helperEnv
	RaceEnabled = raceEnabled
)

package ring

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// helpers are what the test binary does when a test starts it again as another
// process.
var helpers = map[string]func(args []string){}

const helperEnv = "TANDEM_RING_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name](os.Args[1:])
		os.Exit(0)
	}
	before := openFiles()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if after := openFiles(); len(after) > len(before) {
			fmt.Fprintf(os.Stderr, "descriptors leaked: %d before, %d after: %v\n", len(before), len(after), after)
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles lists what this process's descriptors point to, where that can be
// known, leaving the runtime's own aside.
func openFiles() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" || target == "anon_inode:[pidfd]" {
			continue
		}
		open = append(open, target)
	}
	return open
}

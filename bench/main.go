// Bench compares the drivers, the limit of the machine and ways to call, on the
// same work, in two real processes, in one run:
//
//	go run ./bench [flags] [scenario ...]
//
// README.md says what is measured and how, and what the files mean that it
// writes. Other libraries are compared in the module bench/peers.
package main

import (
	"os"

	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	returnLines() // these three do not return in the processes that they are for
	bare()
	worker.Main(suite.EntryName, func() error { return suite.Serve(register) })
	os.Exit(program().Main(os.Args[1:], os.Stdout, os.Stderr))
}

func program() *suite.Program {
	return &suite.Program{
		Name:  "bench",
		Title: "Tandem: which driver, how fast, how far from the limit",
		Scenarios: []suite.Scenario{
			limitScenario(),
			ringScenario(),
			pathScenario(),
			codecScenario(),
			callScenario(),
			concurrentScenario(),
			rateScenario(),
			largeScenario(),
			buffersScenario(),
			spawnScenario(),
			idleScenario(),
			streamScenario(),
			streamsScenario(),
			pipelineScenario(),
			interferenceScenario(),
			servicesScenario(),
			topicsScenario(),
		},
		Questions: questions(),
		Targets:   targets(),
	}
}

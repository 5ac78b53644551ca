package main

import "github.com/tandemipc/tandem/bench/internal/suite"

// The subjects of scenario ring.
const (
	ringCopy  = "ring"
	ringClaim = "ring-claim"
	ringLease = "ring-lease"
)

// ringScenario measures the bare ring, without driver, frames and calls.
func ringScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "ring",
		Title:    "the bare ring, there and back and one way",
		Subjects: []string{ringCopy, ringClaim, ringLease},
		About: `One goroutine in each process, rings of 1 MiB, every record numbered and the numbers checked by the other ` +
			`side. Rows with p50 are round trips: a record is sent, and sent back by the other process as soon as it ` +
			`is seen, 16 of them timed together, since one is hardly longer than a reading of the clock. Rows with a ` +
			`batch go one way: so many records are published by one store, and the clock stops when the other side has ` +
			`answered that all have arrived. ring copies the payload in, ring-claim does it into memory claimed in the ` +
			`ring, ring-lease has the reader hold each record until two more have come. Included: copying the payload in; ` +
			`reading its first and last eight bytes where it lies. Not included: reading or copying the rest out.`,
		Plan: planRings,
	}
}

package main

import (
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// Subjects of scenario path, beside those of others.
const (
	linkFrames = "link"
	codecAlone = "codec"
)

// pathScenario measures what a call is made of, each piece by itself.
func pathScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "path",
		Title:    "the pieces of a hot call, and the whole",
		Subjects: append([]string{oneLine, twoLines, rings.Copy, linkFrames, codecAlone}, suite.Drivers...),
		About: `Round trips between two processes, from less to more: one cache line that both write, and two, each written by one side; a record in the bare ring; a frame ` +
			`over a link of shm, without the engine that makes calls of frames; calls in place, of a struct that ` +
			`crosses as its memory, with Call and Handle, of an order in CBOR, and of the struct in CBOR, by CallInto. codec is what encoding and decoding the ` +
			`order there and back take within one process. All run interleaved, and 16 (lines: 64) at a time between two ` +
			`readings of the clock, so percentiles are of such means. Included: making and comparing the 64 bytes ` +
			`or the order. Ratios are to the cache line.`,
		Plan: planPath,
	}
}

package main

import "github.com/tandemipc/tandem/bench/internal/suite"

// The subjects of scenario limit.
const (
	oneLine  = "cacheline-1"
	twoLines = "cacheline-2"
	futex    = "futex"
	unixEcho = "unix-echo"
	pipeEcho = "pipe-echo"
	memcpy   = "memcpy"
)

// limitScenario measures what this machine can do at best, without any of our code.
func limitScenario() suite.Scenario {
	return suite.Scenario{
		Name:     "limit",
		Title:    "what the machine can do at best",
		Subjects: []string{oneLine, twoLines, futex, unixEcho, pipeEcho, memcpy},
		About: `Round trips between two Go processes, with none of the library's code: one cache line that both write in ` +
			`turn; two, one for each direction; a word each way with a futex system call for every wait and every wake; ` +
			`64 bytes echoed over a Unix socket pair and over two pipes, through Go's netpoller. memcpy copies memory ` +
			`in one process, 64 KiB that stay in the cache and 64 MiB that do not; its MB/s counts what was copied, ` +
			`once. Cache lines are timed 64 round trips at a time, since one is about as short as a reading of ` +
			`the clock, so their percentiles are of such means. Not included: framing, allocation, any scheduling beyond Go's.`,
		Plan: planLimits,
	}
}

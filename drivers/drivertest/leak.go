package drivertest

import (
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// Baseline is what a process holds at one moment: see [leaktest.Baseline].
type Baseline = leaktest.Baseline

// NewBaseline looks at what this process holds now.
func NewBaseline() *Baseline { return leaktest.NewBaseline() }

// VerifyNoLeaks runs tests and looks for what they have left behind: see
// [leaktest.VerifyNoLeaks].
func VerifyNoLeaks(run func() int, ignore ...goleak.Option) int {
	return leaktest.VerifyNoLeaks(run, ignore...)
}

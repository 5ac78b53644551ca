package process

import (
	"fmt"

	"github.com/tandemipc/tandem/drivers"
)

// CompleteLimits gives limits of a host or worker that are 0 their defaults, and
// checks the others.
func CompleteLimits(driver string, maxMessage, window *int) error {
	if *maxMessage == 0 {
		*maxMessage = drivers.DefaultMaxMessage
	}
	if *window == 0 {
		*window = drivers.DefaultWindow
	}
	if n := *maxMessage; n < drivers.MinMaxMessage || n > drivers.MaxMaxMessage {
		return fmt.Errorf("tandem: %s: largest message of %d bytes, allowed are %d to %d", driver, n, drivers.MinMaxMessage, drivers.MaxMaxMessage)
	}
	if n := *window; n < drivers.MinWindow || n > drivers.MaxWindow {
		return fmt.Errorf("tandem: %s: window of %d bytes, allowed are %d to %d", driver, n, drivers.MinWindow, drivers.MaxWindow)
	}
	return nil
}

package process

import (
	"fmt"

	"github.com/tandemipc/tandem/drivers"
)

// MaxMessage completes and checks the largest message of a host or worker.
func MaxMessage(driver string, n int) (int, error) {
	switch {
	case n == 0:
		return drivers.DefaultMaxMessage, nil
	case n < drivers.MinMaxMessage || n > drivers.MaxMaxMessage:
		return 0, fmt.Errorf("tandem: %s: largest message of %d bytes, allowed are %d to %d", driver, n, drivers.MinMaxMessage, drivers.MaxMaxMessage)
	}
	return n, nil
}

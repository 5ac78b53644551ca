//go:build linux

package socket_test

import (
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/socket"
)

func TestConformance(t *testing.T) { drivertest.TestDriver(t, socket.Driver{}) }

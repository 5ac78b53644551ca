//go:build linux

package socket_test

import (
	"testing"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc/ipctest"
)

func TestConformance(t *testing.T) { ipctest.TestDriver(t, socket.Driver{}) }

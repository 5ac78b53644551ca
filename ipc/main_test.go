package ipc_test

import (
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
)

func TestMain(m *testing.M) { drivertest.Main(m) }

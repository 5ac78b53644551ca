package shm_test

import (
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
)

func TestMain(m *testing.M) { drivertest.Main(m) }

func TestConformance(t *testing.T) {
	drivertest.TestDriver(t, shm.Driver{})
}

func TestConformanceParkSmallRing(t *testing.T) {
	drivertest.TestDriver(t, shm.Driver{Wait: shm.Park, RingSize: 256 << 10, Prefault: true})
}

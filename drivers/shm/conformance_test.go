package shm_test

import (
	"testing"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc/ipctest"
)

func TestMain(m *testing.M) { ipctest.Main(m) }

func TestConformance(t *testing.T) {
	ipctest.TestDriver(t, shm.Driver{})
}

func TestConformanceParkSmallRing(t *testing.T) {
	ipctest.TestDriver(t, shm.Driver{Wait: shm.Park, RingSize: 256 << 10, Prefault: true})
}

package ipc_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tandemipc/tandem/ipc"
)

type fakeAcceptor string

func (a fakeAcceptor) Name() string                              { return string(a) }
func (fakeAcceptor) Open(*ipc.StartupData) (ipc.Endpoint, error) { return nil, ipc.ErrUnsupported }

func TestRegistry(t *testing.T) {
	for _, name := range []string{"test-z", "test-a", "test-m"} {
		if _, ok := ipc.FindDriver(name); !ok { // it stays there for the next run
			ipc.RegisterDriver(fakeAcceptor(name))
		}
	}
	names := ipc.DriverNames()
	assert.True(t, slices.IsSorted(names), "%v", names)
	assert.Subset(t, names, []string{"test-a", "test-m", "test-z"})
	a, ok := ipc.FindDriver("test-m")
	assert.True(t, ok)
	assert.Equal(t, fakeAcceptor("test-m"), a)
	_, ok = ipc.FindDriver("test-q")
	assert.False(t, ok)
	assert.PanicsWithValue(t, `tandem: driver "test-m" is registered twice`, func() { ipc.RegisterDriver(fakeAcceptor("test-m")) })
}

func TestCapabilitiesString(t *testing.T) {
	assert.Equal(t, "none", ipc.Capabilities{}.String())
	assert.Equal(t, "SharedMemory", ipc.Capabilities{SharedMemory: true}.String())
	assert.Equal(t, "Reconnect+Detach+SharedMemory", ipc.Capabilities{Reconnect: true, Detach: true, SharedMemory: true}.String())
}

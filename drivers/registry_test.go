package drivers_test

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

type fakeAcceptor string

func (fakeAcceptor) Capabilities() drivers.Capabilities { return drivers.Capabilities{} }
func (a fakeAcceptor) Name() string                     { return string(a) }
func (fakeAcceptor) Open(*drivers.StartupData, *slog.Logger) (drivers.Endpoint, error) {
	return nil, ipc.ErrUnsupported
}

func TestRegistry(t *testing.T) {
	for _, name := range []string{"test-z", "test-a", "test-m"} {
		if _, ok := drivers.Find(name); !ok { // it stays there for the next run
			drivers.Register(fakeAcceptor(name))
		}
	}
	names := drivers.Names()
	assert.True(t, slices.IsSorted(names), "%v", names)
	assert.Subset(t, names, []string{"test-a", "test-m", "test-z"})
	a, ok := drivers.Find("test-m")
	assert.True(t, ok)
	assert.Equal(t, fakeAcceptor("test-m"), a)
	_, ok = drivers.Find("test-q")
	assert.False(t, ok)
	assert.PanicsWithValue(t, `tandem: driver "test-m" is registered twice`, func() { drivers.Register(fakeAcceptor("test-m")) })
}

func TestCapabilitiesString(t *testing.T) {
	assert.Equal(t, "none", drivers.Capabilities{}.String())
	assert.Equal(t, "SharedMemory", drivers.Capabilities{SharedMemory: true}.String())
	assert.Equal(t, "Reconnect+Detach+SharedMemory", drivers.Capabilities{Reconnect: true, Detach: true, SharedMemory: true}.String())
}

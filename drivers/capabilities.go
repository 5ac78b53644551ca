package drivers

import (
	"strings"
)

// Capabilities says what the links of a driver can do beyond calling.
type Capabilities struct {
	// Reconnect: a link can be closed and opened again while the worker lives.
	Reconnect bool
	// Detach: a worker can outlive the host that started it.
	Detach bool
	// SharedMemory: payloads cross in memory that both processes map.
	SharedMemory bool
}

// String lists the capabilities that are set, or "none".
func (c Capabilities) String() string {
	var set []string
	for _, f := range []struct {
		name string
		on   bool
	}{{"Reconnect", c.Reconnect}, {"Detach", c.Detach}, {"SharedMemory", c.SharedMemory}} {
		if f.on {
			set = append(set, f.name)
		}
	}
	if set == nil {
		return "none"
	}
	return strings.Join(set, "+")
}

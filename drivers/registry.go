package drivers

import (
	"fmt"
	"slices"
	"sync"
)

var drivers struct {
	sync.RWMutex
	byName map[string]Acceptor
}

// Register makes the worker's side of a driver known under its name.
// Packages of drivers call it when they are initialised, so that importing one
// links it in. It panics if the name is taken.
func Register(a Acceptor) {
	drivers.Lock()
	defer drivers.Unlock()
	if _, taken := drivers.byName[a.Name()]; taken {
		panic(fmt.Sprintf("tandem: driver %q is registered twice", a.Name()))
	}
	if drivers.byName == nil {
		drivers.byName = make(map[string]Acceptor)
	}
	drivers.byName[a.Name()] = a
}

// Find returns the registered driver of this name, and false if it is
// not linked into this program.
func Find(name string) (Acceptor, bool) {
	drivers.RLock()
	defer drivers.RUnlock()
	a, ok := drivers.byName[name]
	return a, ok
}

// Names returns the names of the drivers linked into this program, sorted.
func Names() []string {
	drivers.RLock()
	defer drivers.RUnlock()
	names := make([]string, 0, len(drivers.byName))
	for n := range drivers.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

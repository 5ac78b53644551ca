package natsipc

import (
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// methodNames knows the methods of a service. A request has the name of its method in its subject, by which NATS permits it, and the number by which it is
// found: they have to be of the same method.
type methodNames struct {
	list  func() []worker.HandledMethod // nil if nobody knows them
	known atomic.Pointer[knownMethods]
}

type knownMethods struct {
	byID   map[uint64]string
	byName map[string]bool
}

// all returns those that are known.
func (n *methodNames) all() []worker.HandledMethod {
	if n.list == nil {
		return nil
	}
	return n.list()
}

// check returns an error if the number is that of another method than the name. A number that is not known is refused for a name that is. What has neither
// is for whoever answers to say.
func (n *methodNames) check(name string, id uint64) error {
	if n.list == nil {
		return nil
	}
	known := n.known.Load()
	if known == nil || known.byID[id] != name {
		known = n.look()
	}
	switch of, ok := known.byID[id]; {
	case ok && of == name, !ok && !known.byName[name]:
		return nil
	case ok:
		return ipc.Errorf(ipc.CodeInvalidArgument, "%w: a request for %.100q with the number of another method", ipc.ErrProtocol, name)
	}
	return ipc.Errorf(ipc.CodeUnimplemented, "tandem: the service has no %.100q with this number: it was declared with another codec, or with other types of the codec fixed", name)
}

// look asks for the methods. There may be further ones since it did.
func (n *methodNames) look() *knownMethods {
	known := &knownMethods{make(map[uint64]string), make(map[string]bool)}
	for _, m := range n.list() {
		known.byID[m.ID], known.byName[m.Name] = m.Name, true
	}
	n.known.Store(known)
	return known
}

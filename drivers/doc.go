// Package drivers says what a driver is: how a host and a worker process come to
// have a link, and what a link does. It is for authors of drivers; a user of the
// library imports ipc, worker and one driver.
//
// A driver implements [Driver] for the host and [Acceptor] for the worker, in one
// type. A [Driver] starts a worker process and returns a [Channel], and an
// [Acceptor] opens an [Endpoint]; both yield a [Link] for each connection. A link
// carries frames ([Frame]) and knows nothing of calls. Both sides open it with a
// [Hello]. What a channel or link can do beyond that is declared by [Claimer], [Identifier],
// [Detachable] and [Reconnectable].
//
// A driver calls [Register] when its package is initialised. Its tests run the
// conformance suite in drivers/drivertest.
package drivers

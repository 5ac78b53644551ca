// Package ipc is the contract that hosts, workers and drivers share: typed
// methods, codecs, errors that survive the process boundary, frames, the hello
// that opens a link, and the interfaces that a driver implements.
//
// It knows neither shared memory nor sockets. A user declares methods with it,
// in a package that host and worker both import:
//
//	var Count = ipc.NewMethod[CountRequest, CountResult]("text.count")
//
// The worker registers a handler for the method with package worker, the host
// calls it through any [Caller]. Who writes a driver implements [Driver],
// [Channel], [Link] and [Acceptor], and runs the suite in ipc/ipctest.
package ipc

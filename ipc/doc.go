// Package ipc is the contract between hosts and workers: typed methods, codecs,
// and errors that cross the process boundary.
//
// Declare methods in a package that host and worker both import:
//
//	var Count = ipc.NewMethod[CountRequest, CountResult]("text.count")
//
// The worker registers a handler for the method with package worker, and the host
// calls it through any [Caller]. Package ipc knows no driver; package drivers says what
// one is.
package ipc

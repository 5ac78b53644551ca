// Package engine runs calls and handlers over one link, in both directions. A
// [Session] is the same on both sides: a host's and a worker's.
//
// The files follow a call:
//
//	session.go     the session: how it opens, fails and closes
//	invoke.go      the caller sends a request and waits for its end
//	pending.go     the table of the calls that have no answer yet
//	window.go      how much may be on its way: the back-pressure
//	reader.go      who polls the link, and what becomes of each frame
//	waiters.go     callers that sleep until their answer comes, or poll next
//	deadlines.go   timeouts of callers that sleep
//	background.go  the goroutine that reads when no caller polls
//	watchdog.go    takes over from a background reader that is stuck in a handler
//	request.go     a request on the serving side, until its handler runs
//	lane.go        notifications, in their order
//	handler.go     handlers, and which of them the background reader runs itself
//	semaphore.go   handlers that run a limited number of requests at a time
//	context.go     the contexts of handlers
//	inplace.go     requests and responses in the memory of the link
//	response.go    the handler runs, and its answer is sent
//	gather.go      frames that are sent together
//	async.go, batch.go    calls in flight, and calls that are sent together
//	stream*.go    streams of items in both directions: see stream.go
//	drain.go       a session that takes no more requests
//	resume.go, replay.go  calls that outlive their link: the host's and the worker's side
package engine

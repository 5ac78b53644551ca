package ipc

import "context"

// Interceptor is code around the calls and handlers of one side. Package worker takes
// interceptors for clients and pools, and for servers; the first one that it is given is the
// outermost. A function that is nil costs nothing, nor does an Interceptor that nobody has.
//
// A function does what it wants to do before, calls next, does what it wants to do after,
// and returns what next has returned, or another error:
//
//	func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
//		began := time.Now()
//		err := next(ctx)
//		log.Println(call.Method.Name, time.Since(began), err)
//		return err
//	}
//
// If it returns an error without calling next, the call is not made, or the handler does not
// run, and the error takes the place of theirs. It may give next a context that is derived
// from its own. A call that has failed stays failed: if next has returned an error and the
// function returns nil, the error of next counts. Functions run concurrently, for different
// calls.
//
// next returns when the call, or the handler, has ended, and so has to be called and
// to return before the function does.
type Interceptor struct {
	// Call is around each call and each notification that this side makes, as a whole: with
	// the queue of a pool, with pauses and further attempts. For a call of [Method.Go] and
	// the like it runs in a goroutine of its own, up to next, which sends the request, before
	// Go returns; next returns with the answer. Of a notification next returns when it is
	// sent. For a stream it runs in a goroutine of its own, too: next opens the stream, and
	// returns when that is over and whoever has opened it knows, for a method of the stream
	// has returned an error or io.EOF, or it was closed. What the function then returns, nobody
	// gets.
	Call InterceptFunc
	// Attempt is around each attempt of a call, inside of Call: once for most calls, and
	// once more for each time that the request is sent again, or a stream is tried to be
	// opened again, to the next process or to another worker of a pool.
	Attempt InterceptFunc
	// Handle is around each handler of a request, a notification or a stream, with the decoding of
	// the request and the encoding of the response. It runs where the handler does, so it
	// should be quick as well. If the handler panics, next returns an [*Error] of
	// CodeInternal with the stack. Requests that no handler gets are not seen.
	Handle InterceptFunc
	// Stream, unlike the others, is called when a stream begins: one that this side opens, or
	// that a handler serves. It returns the stream that takes the place of s, and so sees each
	// item; it may return s. It must not use s before it has returned. The buffers and files of items go
	// around a stream that is no [AttachedStream]: its Send passes its context on, and its Receive
	// returns the item that it has received last.
	Stream func(ctx context.Context, call *Call, s Stream) Stream
}

// Items are the items of one direction of a stream.
type Items struct{ Count, Bytes int64 }

// InterceptFunc is a function of an [Interceptor].
type InterceptFunc func(ctx context.Context, call *Call, next func(context.Context) error) error

// Call is what an [Interceptor] sees of a call, a notification or a request. It is for the
// functions of one call, one after the other, and not to be kept.
type Call struct {
	// Method is what is called.
	Method MethodInfo
	// OneWay says that it is a notification.
	OneWay bool
	// Stream says that it is a stream.
	Stream bool
	// Attempt is the number of the attempt, from 1, in [Interceptor.Attempt], and
	// otherwise 0.
	Attempt int
	// Peer is the process at the other end. In [Interceptor.Call] it is the present worker
	// of a client, and the zero Peer for a pool, which chooses a worker for each attempt.
	Peer Peer
	// Metadata goes with the request, or came with it. Before a call is made, a function
	// may change it; an attempt changes its own alone.
	Metadata Metadata
	// RequestSize is the size of the encoded request, in bytes. Of a stream it is 0, or the
	// size of the one request of a [ServerStream] on the side that has opened it.
	RequestSize int

	// ResponseSize is that of the response, when next has returned; 0 for a stream.
	ResponseSize int
	// Sent and Received are the items of a stream that this side has sent, and has received,
	// when next has returned. Their bytes are those of the encoded items.
	Sent, Received Items
	// Header and Trailer are the metadata of the answer, when next has returned. They are
	// empty for a stream that this side has opened.
	Header, Trailer Metadata
}

package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/pipe"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// LocalClient calls the handlers of a [Server] of this process: see [Local] and [Direct]. It is an
// [ipc.Caller], takes handlers for the server's own calls ([Handle]), and is safe for concurrent use.
type LocalClient struct {
	caller

	until  time.Time     // handlers may run when the client is closed; set before the goodbye
	served chan struct{} // closed when the server's side has ended
	close  func() error  // once
}

// Local returns a client of a server in the same process. Calls and streams go through all that
// those of another process go through: codecs, codes, deadlines, cancellation, metadata,
// interceptors of both sides, limits, windows. So it is for tests of handlers without a
// process, and for programs that pass on calls that they get in some other way. A server may have any number of
// such clients, also while it serves in other ways, and each is a peer of its own.
//
// The bytes of buffers are copied, and files are not passed: calls that have some fail with CodeUnimplemented.
// Handlers find with [ipc.PeerOf] this process, with the driver "local".
//
// Options for starting a process, such as [WithRestart], and those for connecting again are
// errors. It is an [*ipc.MismatchError] if the server demands another codec. The client has to be
// closed.
func Local(server *Server, opts ...Option) (*LocalClient, error) {
	return local(server, "Local", false, opts)
}

// Direct is [Local], but that a call runs its handler in the goroutine that makes the call, so that nobody
// has to be woken: a small call takes a third of the time. It is for programs that have a goroutine for each call that they pass on.
//
// Such a call returns when its handler has returned. If its context or its timeout ends before, or the client
// is closed, the handler's context ends; Close waits a moment longer for handlers that heed that. A handler that ends its goroutine
// (runtime.Goexit) ends that of its caller. What needs the link goes over it, as with Local: notifications, streams, started calls
// ([ipc.Method.Go]) and batches, requests with buffers, and handlers with [WithConcurrency].
func Direct(server *Server, opts ...Option) (*LocalClient, error) {
	return local(server, "Direct", true, opts)
}

// local is Local, or Direct, whose name is what.
func local(server *Server, what string, direct bool, opts []Option) (*LocalClient, error) {
	if server == nil {
		panic("tandem: " + what + " with a nil server")
	}
	s := Resolve(opts...)
	if err := s.checkLocal(); err != nil {
		return nil, err
	}
	codec, err := server.codecFor(s.Codec.Name())
	if err != nil {
		return nil, err
	}
	c := &LocalClient{served: make(chan struct{})}
	c.caller.init(s)
	c.close = sync.OnceValue(c.shutdown)

	hello := drivers.Hello{Codec: codec.Name(), MaxMessage: s.maxMessage, Window: s.window}
	ours, theirs := pipe.New(hello, hello)
	var keeper memory.Keeper // of the server's side: who gets a buffer can read what lies beside it
	keeper.Init(server.arena, server.log)
	config := engine.Config{
		Link: theirs, Side: engine.Worker, Codec: codec, Timeout: s.Timeouts.Call, AgreedTimeout: s.Timeouts.Call,
		MaxMessage: s.maxMessage, Window: s.window, StreamWindow: s.streamWindow,
		Handlers: server.handlers(), Chain: chain.New(server.interceptors), Log: server.log, Arena: keeper.Arena, Forgotten: &server.memory.Forgotten,
	}
	service := engine.New(config)
	config.Link, config.Side, config.Codec = ours, engine.Host, s.Codec
	config.Handlers, config.Chain, config.Log, config.Arena, config.Forgotten = c.handlers(), c.chain, s.Logger, c.memory.Arena, &c.memory.Forgotten
	client := engine.New(config)
	if direct {
		client.CallDirectly(service)
	}

	l := &life{after: make(chan struct{})}
	l.session.Store(client)
	c.now.Store(l)
	service.Open()
	client.Open()
	go func() {
		defer close(c.served)
		defer keeper.Close()
		select {
		case <-service.Done():
		case <-service.Goodbye(): // what was sent before it is handled
			wait.Within(service.Drain(), max(time.Until(c.until), 0), service.Done())
		}
		if service.CancelHandlers(); direct { // Close waits only for those that use the link
			wait.Within(service.Drain(), lostGrace, nil)
		}
		service.Close(lostGrace)
	}()
	return c, nil
}

// checkLocal returns an error for the options that are not about calls.
func (s *Settings) checkLocal() error {
	return errors.Join(refuseOptions("local: option %s is for clients of other processes", []givenOption{
		{"WithReconnect or WithRetry", s.reconnect != nil || s.Attempts > 0},
		{"WithPeerCheck", s.peerCheck != nil},
		{"WithEvents", s.Events != nil},
		{"WithStartTimeout", s.Timeouts.Start != drivers.DefaultTimeouts().Start},
	}), s.checkService("local"))
}

// Close refuses further calls, and waits for pending ones within the grace ([WithGrace]); those
// that outlast it fail with [ipc.ErrClosed], and the contexts of their handlers end. The error is always nil.
func (c *LocalClient) Close() error {
	c.closing.Store(true)
	c.stop()
	return c.close()
}

func (c *LocalClient) shutdown() error {
	s, grace := c.session(), c.settings.Timeouts.Grace
	c.until = time.Now().Add(grace)
	s.Retire(ipc.ErrClosed)
	s.EndLasting(ipc.ErrClosed)
	s.Idle(grace, s.Done())
	s.FailCalls(ipc.ErrClosed)
	ctx, cancel := wait.Timeout(context.Background(), lostGrace, nil)
	defer cancel()
	_ = s.Link().Send(ctx, &drivers.Frame{Kind: drivers.KindGoodbye}) // best effort
	<-c.served
	s.Close(lostGrace)
	c.memory.Close()
	return nil
}

// Peer returns this process.
func (c *LocalClient) Peer() ipc.Peer { return c.session().Peer() }

// Capabilities returns what the link can do: nothing that needs another process.
func (c *LocalClient) Capabilities() drivers.Capabilities { return drivers.Capabilities{} }

// Codec returns the codec of methods that do not choose one.
func (c *LocalClient) Codec() ipc.Codec {
	if c == nil {
		panic("tandem: the client is nil")
	}
	return c.settings.Codec
}

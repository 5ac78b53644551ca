package worker

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// ServeListener answers the calls of any number of clients that dial a listener: of shm.Listen or
// socket.Listen. It is what [Server.Serve] is for a worker, with the same handlers, and may run
// beside it, and for several listeners. Clients share nothing but the handlers: one that is slow,
// stopped or hostile does not hold up another. A handler finds out with [ipc.PeerOf] who calls, and
// calls back with [Host].
//
// It returns nil when ctx has ended, or when another process has taken the listener over, and
// all clients have left. It says goodbye to them first, and goes on answering until a client has
// left, for the grace ([WithGrace]) at most; then it ends the contexts of the handlers that
// still run. If the listener fails, it returns that error in the same way. It closes l. If l is closed by
// somebody else, it takes no more clients, and returns when those that there are have left.
//
// The client says which codec methods use that do not choose one ([Server.RequireCodec] demands
// one), and how long its calls may take. Of the options, [WithMaxMessage], [WithWindow],
// [WithStreamWindow] and [WithGrace] hold for each client; others are errors.
func (s *Server) ServeListener(ctx context.Context, l drivers.Listener, opts ...Option) error {
	if l == nil {
		return errors.New("tandem: ServeListener with a nil listener")
	}
	defer l.Close()
	settings := Resolve(opts...)
	if err := settings.checkListener(); err != nil {
		return err
	}
	if s.driver != nil && s.driver.Name() != l.Driver() {
		return &ipc.MismatchError{What: "driver", Local: s.driver.Name(), Remote: l.Driver()}
	}
	v := &service{server: s, settings: settings, chain: chain.New(s.interceptors), takenOver: l.TakenOver()}
	return l.Serve(ctx, v.agree, v.serve)
}

// checkListener returns an error for the options that are not about links.
func (s *Settings) checkListener() error {
	d := drivers.DefaultTimeouts()
	return errors.Join(refuseOptions("serve a listener: option %s is for clients", []givenOption{
		{"WithCodec", s.Codec != ipc.CBOR},
		{"WithStartTimeout", s.Timeouts.Start != d.Start},
		{"WithCallTimeout", s.Timeouts.Call != d.Call},
		{"WithReconnect or WithRetry", s.reconnect != nil || s.Attempts > 0},
		{"WithPeerCheck", s.peerCheck != nil},
		{"WithEvents", s.Events != nil},
		{"WithHandlers", s.Handlers != nil},
		{"WithInterceptors", s.Interceptors != nil},
		{"WithArena", s.Arena != nil},
	}), s.checkService("serve a listener"))
}

// service is a run of [Server.ServeListener].
type service struct {
	server   *Server
	settings *Settings
	chain    *chain.Chain

	takenOver <-chan struct{} // the listener
}

// agree answers the hello of a client, or says why there is no link.
func (v *service) agree(remote drivers.Hello) (drivers.Hello, error) {
	codec, err := v.server.codecFor(remote.Codec)
	if err != nil {
		return drivers.Hello{}, err
	}
	return drivers.Hello{Codec: codec.Name(), MaxMessage: v.settings.maxMessage, Window: v.settings.window}, nil
}

// serve serves the link of one client to its end.
func (v *service) serve(ctx context.Context, link drivers.Link) {
	hello, grace := link.Peer(), v.settings.Timeouts.Grace
	codec, _ := v.server.codecFor(hello.Codec) // agree has found it
	// Who gets a buffer can read what lies beside it, so each client has an arena of its own, made
	// when it is used.
	var keeper memory.Keeper
	keeper.Init(v.server.arena, v.server.log)
	defer keeper.Close()
	client := engine.New(engine.Config{
		Link: link, Side: engine.Worker, Codec: codec, Timeout: hello.CallTimeout, AgreedTimeout: hello.CallTimeout,
		MaxMessage: v.settings.maxMessage, Window: v.settings.window, StreamWindow: v.settings.streamWindow,
		Handlers: v.server.handlers(), Chain: v.chain, Log: v.server.log, Arena: keeper.Arena, Forgotten: &v.server.memory.Forgotten,
	})
	client.Open()
	leave := false
	select {
	case <-client.Done():
	case <-client.Goodbye():
	case <-ctx.Done():
		leave = true
	case <-v.takenOver:
		leave = true
	}
	until := time.Now().Add(grace)
	if leave {
		// The client sends nothing more when it has heard this, and has its answers before it
		// leaves. What it has sent before is not lost.
		v.goodbye(client)
		wait.Within(client.Goodbye(), time.Until(until), client.Done())
	}
	wait.Within(client.Drain(), max(time.Until(until), 0), client.Done())
	v.goodbye(client) // so that the end of the link is no accident
	client.CancelHandlers()
	client.Close(lostGrace)
}

// goodbye tells a client to leave, if it reads.
func (v *service) goodbye(client *engine.Session) {
	if client.Failing() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lostGrace)
	defer cancel()
	_ = client.Link().Send(ctx, &drivers.Frame{Kind: drivers.KindGoodbye}) // best effort
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// Server is the worker's side: it answers the calls of the host that started
// this process.
type Server struct {
	Handlers

	driver drivers.Acceptor
	codec  ipc.Codec
	log    *slog.Logger

	interceptors []ipc.Interceptor
	chain        *chain.Chain // of interceptors, since Serve

	replay engine.Replay // of links that were disconnected
	arena  *ipc.Arena    // that was given, or nil
	memory memory.Keeper
}

// ServerOption is an option of [NewServer].
type ServerOption func(*Server)

// WithServerLogger sets the logger for what happens on the worker's side and no error
// reports, such as notifications that no handler gets. The default is [slog.Default]. It
// panics if l is nil.
func WithServerLogger(l *slog.Logger) ServerOption {
	mustBeSet("WithServerLogger", l == nil)
	return func(s *Server) { s.log = l }
}

// NewServer returns a server without handlers. Add them with [Handle].
func NewServer(opts ...ServerOption) *Server {
	s := &Server{log: slog.Default()}
	for _, opt := range opts {
		opt(s)
	}
	s.memory.Init(s.arena, s.log)
	return s
}

// RequireDriver makes Serve accept only one driver. If the host uses another, both get an
// error at once. Without it the worker uses the host's. It panics if d is nil.
func (s *Server) RequireDriver(d drivers.Acceptor) {
	mustBeSet("RequireDriver", d == nil)
	s.driver = d
}

// RequireCodec makes Serve accept only one codec. If the host uses another, both get an
// error at once. Without it the worker uses the host's. It panics if c is nil.
func (s *Server) RequireCodec(c ipc.Codec) {
	mustBeSet("RequireCodec", c == nil)
	s.codec = c
}

// Dropped returns how many answers could not be delivered, because the connection to the
// host had ended and the worker did not keep them: see [WithResume].
func (s *Server) Dropped() uint64 { return s.replay.Dropped() }

// Startup returns what the host passed to this process, or nil if no host started it:
// with [drivers.StartupData.Data] a worker reads what [WithData] has passed. The result
// is shared and must not be changed.
func Startup() *drivers.StartupData { return drivers.Startup() }

// Serve answers calls until the host says goodbye, SIGTERM comes, or ctx ends. Then it
// waits for the handlers, within the host's grace ([WithGrace]), ends their contexts, and
// returns nil.
//
// If the host goes without a goodbye, Serve ends the contexts of the handlers at once and
// returns an error that wraps [ipc.ErrPeerGone]. With a driver that can reconnect it first
// waits for the host to come back ([WithHostTimeout]). Meanwhile the handlers go on, and
// their answers are dropped, or kept ([WithResume]). Before Serve returns, it ends the
// contexts of these handlers, too, and waits for them within the grace.
//
// When the host's process has ended, a worker that is not detached gets SIGTERM, perhaps
// more than once, and has one second to end itself; Serve may return nil then. After the
// second SIGKILL ends the worker. If the worker leads its process group, as it does unless
// SysProcAttr or a wrapper changed that, its children get both signals, too.
//
// When Serve returns because of SIGTERM or with an error, the children in the worker's
// process group get SIGTERM. For a second after Serve has returned, unless it was because ctx had
// ended, SIGTERM does not end the process.
//
// From Serve on, writing to a stdout or stderr that nobody reads any more is an error, as
// it is for other files, and does not end the process.
//
// Serve makes the collector leave heaps below 32 MiB alone, unless GOGC or GOMEMLIMIT is set,
// in the environment or by package runtime/debug.
//
// If no host started this process, or if host and worker do not agree, Serve returns an
// error at once, and so does the start on the host's side. A process can call Serve once.
func (s *Server) Serve(ctx context.Context) error {
	if err := checkEntry(); err != nil {
		return err
	}
	serving.Store(true)
	defer s.memory.Close()
	startup, err := drivers.LoadStartup()
	if err != nil {
		return err
	}
	if startup == nil {
		return fmt.Errorf("tandem: this process was not started by a host: there is no %s in its environment (see worker.Spawn)", drivers.StartupEnv)
	}
	parent := ctx
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM)
	defer func() { stop() }()
	surviveBrokenPipes()
	keepHeapFloor()
	driver, codec, err := s.agree(startup)
	if err != nil {
		_ = startup.RefuseFor(err) // the host is told if it still listens; the error is returned as well
		return err
	}
	endpoint, err := driver.Open(startup, s.log)
	if err != nil {
		err = fmt.Errorf("tandem: open driver %s: %w", driver.Name(), err)
		_ = startup.RefuseFor(err)
		return err
	}
	defer endpoint.Close()
	s.chain = chain.New(s.interceptors)
	s.replay.Init(driver.Capabilities().Reconnect, startup.Resume)
	for {
		link, err := accept(ctx, endpoint, startup, codec)
		again := false
		switch {
		case err == nil:
			again, err = s.serveLink(ctx, link, codec, startup)
		case ctx.Err() != nil:
			awaitHandlers(s.replay.Drain(), max(startup.Timeouts.Grace, lostGrace), startup.HostGone())
			err = nil
		default:
			wait.Within(s.replay.Drain(), lostGrace, nil)
		}
		if again {
			continue
		}
		if err != nil || ctx.Err() != nil && parent.Err() == nil { // no host, or SIGTERM
			endGroup(startup.HostGone())
		}
		if err != nil || parent.Err() == nil {
			// The end of the host may come as more than one SIGTERM, and a host whose grace is over
			// sends one to a worker that is about to end. None may end what main has deferred.
			handled := stop
			stop = func() { time.AfterFunc(orphanGrace, handled) }
		}
		return err
	}
}

// agree finds the driver and codec that the host asks for.
func (s *Server) agree(startup *drivers.StartupData) (drivers.Acceptor, ipc.Codec, error) {
	if startup.Protocol != drivers.ProtocolVersion {
		return nil, nil, &ipc.MismatchError{What: "protocol version", Local: fmt.Sprint(drivers.ProtocolVersion), Remote: fmt.Sprint(startup.Protocol)}
	}
	codec, err := s.codecFor(startup.Codec)
	if err != nil {
		return nil, nil, err
	}
	if s.driver != nil {
		if s.driver.Name() != startup.Driver {
			return nil, nil, &ipc.MismatchError{What: "driver", Local: s.driver.Name(), Remote: startup.Driver}
		}
		return s.driver, codec, nil
	}
	driver, ok := drivers.Find(startup.Driver)
	if !ok {
		return nil, nil, fmt.Errorf("tandem: the host uses driver %q, which is not linked into this worker (linked: %s): import _ %q",
			startup.Driver, strings.Join(drivers.Names(), ", "), startup.Import)
	}
	return driver, codec, nil
}

// codecFor finds the codec that a host or a client asks for.
func (s *Server) codecFor(name string) (ipc.Codec, error) {
	if s.codec != nil {
		if s.codec.Name() != name {
			return nil, &ipc.MismatchError{What: "codec", Local: s.codec.Name(), Remote: name}
		}
		return s.codec, nil
	}
	codec, ok := ipc.FindCodec(name)
	if !ok {
		return nil, &ipc.MismatchError{What: "codec", Local: "cbor, json or raw", Remote: name}
	}
	return codec, nil
}

// accept waits for a host within the host's limit.
func accept(ctx context.Context, endpoint drivers.Endpoint, startup *drivers.StartupData, codec ipc.Codec) (drivers.Link, error) {
	if limit := startup.Timeouts.Host; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, &ipc.TimeoutError{What: "waiting for the host", After: limit})
		defer cancel()
	}
	link, err := endpoint.Accept(ctx, drivers.Hello{Codec: codec.Name(), MaxMessage: startup.MaxMessage, Window: startup.Window})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return link, err
}

// orphanGrace is how long an attached worker may run on after its host's end, with
// all that it has begun: what main has deferred runs within it.
// For as long after Serve, SIGTERM does not end the process.
const orphanGrace = time.Second

// lostGrace is how long handlers may run on after their host is gone.
const lostGrace = 500 * time.Millisecond

// awaitHandlers waits until handlers have ended, for d at most, and when the host's
// process has ended no longer than lostGrace: SIGTERM may have told us first.
func awaitHandlers(ended <-chan struct{}, d time.Duration, hostGone <-chan struct{}) {
	if !wait.Within(ended, d, hostGone) && wait.Closed(hostGone) {
		wait.Within(ended, lostGrace, nil)
	}
}

// lost waits until host says goodbye, its link ends, or ctx ends. It returns true if the link
// has ended and the host has not said goodbye before.
func lost(ctx context.Context, host *engine.Session) bool {
	select {
	case <-host.Done():
		return !wait.Closed(host.Goodbye())
	case <-host.Goodbye():
	case <-ctx.Done():
	}
	return false
}

// serveLink serves one link to its end. again is true if the host may come back.
func (s *Server) serveLink(ctx context.Context, link drivers.Link, codec ipc.Codec, startup *drivers.StartupData) (again bool, err error) {
	timeouts := startup.Timeouts
	host := engine.New(engine.Config{
		Link: link, Side: engine.Worker, Codec: codec, Timeout: timeouts.Call, AgreedTimeout: timeouts.Call,
		MaxMessage: startup.MaxMessage, Window: startup.Window, StreamWindow: startup.StreamWindow, Handlers: s.handlers(), Chain: s.chain, Log: s.log, Arena: s.memory.Arena, Forgotten: &s.memory.Forgotten,
	})
	s.replay.Adopt(host)
	host.Open()
	if lost(ctx, host) {
		err := host.Err()
		if errors.Is(err, ipc.ErrDisconnected) {
			s.replay.Disconnected(host)
			return true, nil
		}
		after, until := s.replay.Drain(), time.Now().Add(lostGrace)
		host.Close(lostGrace)
		wait.Within(after, time.Until(until), nil)
		return false, fmt.Errorf("tandem: the host (pid %d) is gone: %w", link.Peer().PID, err)
	}
	after, until := s.replay.Drain(), time.Now().Add(max(timeouts.Grace, lostGrace))
	wait.Within(host.Drain(), timeouts.Grace, host.Done())
	awaitHandlers(after, time.Until(until), startup.HostGone())
	// Tell the host that the end of the link will be no accident.
	sendCtx, cancel := context.WithTimeout(context.Background(), lostGrace)
	_ = link.Send(sendCtx, &drivers.Frame{Kind: drivers.KindGoodbye}) // best effort
	cancel()
	host.CancelHandlers() // nobody comes back for their answers
	host.Close(lostGrace)
	return false, nil
}

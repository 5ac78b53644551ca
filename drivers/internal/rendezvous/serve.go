package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/peercred"
	"github.com/tandemipc/tandem/drivers/internal/reserve"
)

const (
	// acceptPairs is how many pairs of descriptors are kept in reserve for a connection.
	acceptPairs = 1
	// firstPause and longestPause are the pauses after a failure to accept, such as a lack of memory.
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
	// logPause is the least time between two lines of the log.
	logPause = time.Second
)

// server is one run of [Serve].
type server struct {
	gate   Gate
	counts counts
	wg     sync.WaitGroup

	logMu  sync.Mutex
	logged time.Time
	silent int // events since then that were not logged
}

// Serve takes the connections of a listener until ctx ends or the listener is closed, and calls
// handle for each that the gate lets in, in a goroutine of its own. handle exchanges the hellos
// over Conn, calls [Client.Established], and returns when the client has gone; then the connection
// is closed, and its places are free. Its context ends with ctx, and when the listener fails: then
// hellos end at once, by the deadline of their connections, and handle is to end the others. After
// [Listener.Close] all go on.
//
// Serve returns when all calls of handle have returned: nil if the listener was closed, the cause
// of ctx if that has ended, or an error after which the listener is of no use. It is an error if
// the listener is being served already.
func Serve(ctx context.Context, l *Listener, gate Gate, handle func(ctx context.Context, c *Client)) error {
	gate, err := gate.complete()
	if err != nil {
		return err
	}
	if !l.serving.CompareAndSwap(false, true) {
		return fmt.Errorf("tandem: the listener at %s is being served already", l.path)
	}
	defer l.serving.Store(false)
	s := &server{gate: gate, counts: counts{gate: gate, by: make(map[counted]int)}}
	ctx, end := context.WithCancelCause(ctx)
	err = s.accept(ctx, l, handle)
	if err != nil {
		end(err)
	}
	s.wg.Wait()
	end(nil)
	return err
}

// accept takes connections. Nothing that a peer does or leaves undone makes it wait.
func (s *server) accept(ctx context.Context, l *Listener, handle func(context.Context, *Client)) error {
	var spare reserve.Reserve
	defer spare.Close()
	if err := spare.Fill(acceptPairs); err != nil {
		return err
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = l.ln.SetDeadline(past)
	})
	defer func() {
		if !stop() {
			<-stopped
			_ = l.ln.SetDeadline(time.Time{})
		}
	}()
	source := reserve.Listener{UnixListener: l.ln, Spare: &spare}
	pauses := drivers.NewBackoff(firstPause, longestPause)
	for {
		conn, err := source.AcceptUnix()
		short := spare.Fill(acceptPairs)
		switch {
		case err == nil && short != nil: // it has what was in reserve, and its peer can be told so
			s.refuse(conn, Peer{}, short)
			_ = spare.Fill(acceptPairs)
		case err == nil:
			pauses.Reset()
			s.take(ctx, conn, handle)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EBADF), errors.Is(err, syscall.ENOTSOCK):
			return fmt.Errorf("tandem: accept connections at %s: %w", l.path, err) // it listens no longer, and will not again
		default:
			s.log("accept a connection", Peer{}, err)
			select {
			case <-time.After(pauses.Next()):
			case <-ctx.Done():
			case <-l.done:
			}
		}
	}
}

// take lets a connection in, or refuses it.
func (s *server) take(ctx context.Context, conn *net.UnixConn, handle func(context.Context, *Client)) {
	peer, err := peercred.Of(conn)
	if err == nil && s.gate.Allow == nil {
		err = SameUser(peer)
	}
	if err != nil {
		s.deny(conn, peer, err)
		conn.Close()
		return
	}
	if err := s.counts.enter(peer); err != nil {
		s.refuse(conn, peer, err)
		return
	}
	c := &Client{Conn: conn, Peer: peer, server: s}
	_ = conn.SetDeadline(time.Now().Add(s.gate.HelloTimeout))
	s.wg.Go(func() {
		defer c.leave()
		stop := context.AfterFunc(ctx, func() { c.expire(ctx) })
		defer stop()
		if s.gate.Allow != nil {
			if err := s.gate.Allow(peer); err != nil {
				s.deny(conn, peer, err)
				return
			}
		}
		handle(ctx, c)
	})
}

// deny refuses a process that may not be a client, and does not say why.
func (s *server) deny(conn *net.UnixConn, peer Peer, err error) {
	s.log("a process that is not allowed was turned away", peer, err)
	s.send(conn, ErrNotAllowed)
}

// refuse says why a connection is not taken, and closes it.
func (s *server) refuse(conn *net.UnixConn, peer Peer, reason error) {
	s.log("a client was refused", peer, reason)
	s.send(conn, reason)
	conn.Close()
}

// send sends a refusal, without waiting.
func (s *server) send(conn *net.UnixConn, reason error) { sendNow(conn, s.gate.Refusal(reason)) }

// log logs what happened, and how much has not been logged.
func (s *server) log(what string, peer Peer, err error) {
	s.logMu.Lock()
	now := time.Now()
	if !s.logged.IsZero() && now.Sub(s.logged) < logPause {
		s.silent++
		s.logMu.Unlock()
		return
	}
	silent := s.silent
	s.logged, s.silent = now, 0
	s.logMu.Unlock()
	s.gate.Log.Warn("tandem: "+what, "uid", peer.UID, "pid", peer.PID, "err", err, "not_logged", silent)
}

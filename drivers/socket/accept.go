package socket

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

const (
	// maxHandshakes bounds the connections that have not sent a hello yet.
	maxHandshakes = 64
	// acceptPause is the pause after a failure to accept, such as a lack of
	// descriptors.
	acceptPause = 100 * time.Millisecond

	// maxQueue bounds the hosts that wait for their turn.
	maxQueue = 8

	// acceptPairs is how many pairs of descriptors are kept in reserve for a connection: it
	// takes two for a moment.
	acceptPairs = 1

	hasHost = "worker has a host"
)

// acceptLoop takes connections, also while a host is being served, so that a
// second one is refused instead of being left to wait.
func (e *endpoint) acceptLoop() {
	for {
		conn, err := e.ln.AcceptUnix()
		short := e.spare.Fill(acceptPairs)
		switch {
		case err == nil && short != nil: // it has what was in reserve, and its host can be told so
			e.log.Warn("tandem: socket: a host connected and was turned away", "err", short)
			refuse(conn, short)
			_ = e.spare.Fill(acceptPairs)
		case err == nil:
			e.startHandshake(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			e.log.Warn("tandem: socket: accept a connection", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-e.closing:
				return
			}
		}
	}
}

// startHandshake receives the hello of conn in a goroutine of its own, so that a
// silent peer holds up nobody.
func (e *endpoint) startHandshake(conn netConn) {
	if cred, err := peerCredentials(conn); err != nil || cred.checkUser(e.uids...) != nil {
		e.log.Warn("tandem: socket: a wrong peer was turned away", "uid", cred.UID, "pid", cred.PID, "err", err)
		conn.Close()
		return
	}
	select {
	case e.sem <- struct{}{}:
	default:
		refuse(conn, errors.New("too many connections have not sent a hello yet"))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		<-e.sem
		conn.Close()
		return
	}
	e.handshaking[conn] = struct{}{}
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	e.wg.Go(func() {
		defer func() { <-e.sem }()
		hello, err := drivers.ReadHello(conn)
		e.enqueue(conn, hello, err)
	})
}

// enqueue puts conn into the queue for the next Accept. Unless SecondHost is
// Queue, the queue takes one host, and none while a host is being served.
func (e *endpoint) enqueue(conn netConn, hello drivers.Hello, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.handshaking, conn)
	var mismatch *ipc.MismatchError
	switch {
	case errors.As(err, &mismatch):
		refuse(conn, mismatch)
	case err != nil, e.closed:
		conn.Close() // it sent no hello, or none that can be read
	default:
		e.dropGone()
		if why := e.full(); why != "" {
			refuse(conn, errors.New(why))
			return
		}
		if e.opts.SecondHost == Queue {
			// It may have to wait for longer than a hello takes.
			if _, err := conn.Write(drivers.AppendQueued(nil)); err != nil {
				conn.Close()
				return
			}
		}
		_ = conn.SetDeadline(time.Time{})
		e.queue = append(e.queue, candidate{conn, hello})
		select {
		case e.arrived <- struct{}{}:
		default:
		}
	}
}

// full returns why no more hosts can wait, "" if one can. e.mu is held.
func (e *endpoint) full() string {
	switch {
	case e.opts.SecondHost == Queue && len(e.queue) >= maxQueue:
		return fmt.Sprintf("%s, and %d wait for it", hasHost, maxQueue)
	case e.opts.SecondHost == Queue:
		return ""
	case e.live != nil && e.live.alive():
		return hasHost
	case len(e.queue) > 0:
		return "another host is connecting to the worker"
	}
	return ""
}

// gone reports whether the other end of conn was closed.
func gone(conn netConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	away := false
	err = raw.Control(func(fd uintptr) { away = hungUp(int(fd)) })
	return err != nil || away
}

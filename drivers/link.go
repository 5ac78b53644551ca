package drivers

import (
	"context"
)

// Link carries frames, in order and in both directions, between two processes.
// It lives as long as one connection does, and ends once.
//
// A link has one reader at a time: the caller of this interface sees to it that only one
// goroutine, the reader, calls Next, Hold, Spin, Arm and Disarm. The other methods are
// safe for concurrent use.
type Link interface {
	// Send sends one frame, and keeps neither f nor f.Payload. While the peer makes no room
	// Send blocks, until ctx or the link ends. A frame larger than the agreed size is
	// refused with an [*ipc.SizeError], and one with a file that cannot be passed with a
	// [*AttachError]. If Send fails the peer does not get the frame,
	// except perhaps if the link has ended.
	Send(ctx context.Context, f *Frame) error

	// SendBatch sends frames in their order, all at once if there is room. The first
	// n of them count as sent, so n is len(frames) if there is no error; errors are
	// those of Send.
	SendBatch(ctx context.Context, frames []Frame) (n int, err error)

	// Next puts the next frame into f, all of its fields, without blocking; ok is false
	// if there is none now, and then f is undefined, as it is with an error. f.Payload is valid until the following call of Next and may
	// lie in memory that the peer can write, unless f.Owned is set. When the
	// peer is gone Next first returns all that it had published, then an error
	// that wraps [ipc.ErrPeerGone] or [ipc.ErrDisconnected].
	Next(f *Frame) (ok bool, err error)
	// Hold keeps the payload of the frame that Next returned last valid until
	// release is called, though Next goes on. Until then the peer may find less
	// room, or none. It may be called once for each frame, and release once, by any
	// goroutine, also when the link has ended.
	Hold() (release func())
	// Recycle takes memory that nobody uses any more, such as the payload of an
	// earlier frame that was Owned, for later frames. Any goroutine may call it.
	Recycle(b []byte)
	// Spin is called after Next found nothing. It pauses for a moment and says
	// whether to ask again rather than to sleep.
	Spin() bool
	// Arm asks the peer to wake a sleeper for what it sends from now on. The
	// caller has to look at Ready afterwards.
	Arm()
	// Disarm takes Arm back.
	Disarm()

	// Ready reports whether Next would return a frame or an error.
	Ready() bool
	// Sleep returns at once if until reports true, and otherwise blocks until
	// the peer, if the link is armed, has sent something, the link ends, or Wake
	// is called. It may also return for no reason. It reads nothing, so another
	// goroutine may be the reader meanwhile. One goroutine at a time may call it.
	Sleep(until func() bool)
	// Wake makes a Sleep that runs, or else the next one, return.
	Wake()

	// Peer is what the other side said in its hello.
	Peer() Hello
	// Close ends the link: blocked and later calls fail with [ipc.ErrDisconnected].
	// It waits for a running Sleep to return. No other goroutine may be the reader,
	// since Close takes away the memory that Next reads.
	Close() error
	// Shutdown ends the link like Close but keeps its memory, so that it may be
	// called at any time. Next still returns what has arrived.
	Shutdown()
}

// Claimer is a [Link] that can have the payload of a frame built in its own memory.
// Its methods are safe for concurrent use.
type Claimer interface {
	// Claim returns n bytes for the payload of f, whose own Payload is ignored,
	// with whatever was there before. It blocks like Send, and then makes all who
	// want to send wait until Commit or Abort, one of which has to follow. A frame
	// that is too large to be built in place is refused with a [*ipc.SizeError], which
	// says how much is possible; Send may take it all the same.
	Claim(ctx context.Context, f *Frame, n int) ([]byte, error)
	// Commit sends the frame with the first n of the bytes that were claimed.
	Commit(n int)
	// Abort drops the frame.
	Abort()
}

// Identifier is a [Link] that knows who the peer is, from the system and not from the peer.
type Identifier interface {
	// PeerCredentials returns what the system has said of the peer's process when the link
	// began.
	PeerCredentials() Credentials
}

// Credentials are what the system says of a process.
type Credentials struct {
	UID, GID int // the ids of its user and its group, -1 if they are not known
	PID      int // its process id as this process sees it, 0 if it is not known
}

// NoCredentials are those of a process of which nothing is known.
var NoCredentials = Credentials{UID: -1, GID: -1}

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ListenOptions are the options of [Listen]. The zero value is useful.
type ListenOptions struct {
	// Mode is that of the socket file, whatever the umask is; 0 means 0600, so that only this user
	// can connect. Only permission bits count. Abstract sockets have none. On other systems than
	// Linux who looked at the file in the moment before it had this mode may connect still: see
	// [Gate].
	Mode fs.FileMode
}

// Listener listens at a name. Its methods are safe for concurrent use.
type Listener struct {
	ln      *net.UnixListener
	name    string
	path    string
	site    *site       // nil if there is no file that is ours
	id      fs.FileInfo // of that file
	done    chan struct{}
	serving atomic.Bool

	mu     sync.Mutex // guards the following
	closed bool
	kept   bool
}

// Listen listens at a name. The socket of a process that has ended is replaced. It fails with
// [ErrServed] if a process listens there, [ErrBadName], [ErrNotSocket] or [ErrNotAllowed], if there is
// something else.
func Listen(name string, o ListenOptions) (*Listener, error) {
	a, err := parse(name)
	if err == nil {
		err = supported()
	}
	if err == nil {
		err = a.locate(true)
	}
	if err != nil {
		return nil, err
	}
	l := &Listener{name: name, path: a.path, done: make(chan struct{})}
	if a.abstract {
		l.path = name
		l.ln, err = bindAndListen(name, 0o600, func() error { return nil })
		if errors.Is(err, syscall.EADDRINUSE) {
			err = served(name)
		}
		if err != nil {
			return nil, fmt.Errorf("tandem: listen at %s: %w", name, failed(err))
		}
		return l, nil
	}
	mode := o.Mode.Perm()
	if mode == 0 {
		mode = 0o600
	}
	s, err := openSite(a.path)
	if err == nil {
		if l.ln, l.id, err = s.listen(mode); err != nil {
			s.close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tandem: listen at %s: %w", a.path, failed(err))
	}
	l.site = s
	return l, nil
}

// FromFile takes over a Unix stream socket that listens, such as one that a predecessor handed on
// with [Listener.File]. From then on the system names this process to clients as their server.
// If name is not "", it is where the socket was bound: then Close removes the file as if Listen had made
// it, and it is an error if another socket is there. FromFile copies f, which stays the caller's. It fails
// with [ErrNotSocket] if f is anything else.
func FromFile(f *os.File, name string) (*Listener, error) {
	l := &Listener{name: name, done: make(chan struct{})}
	err := supported()
	if err == nil {
		err = checkListening(f)
	}
	if err == nil {
		l.ln, err = listenOn(f)
	}
	if err != nil {
		return nil, fmt.Errorf("tandem: listen at the file %s: %w", f.Name(), failed(err))
	}
	l.path = l.ln.Addr().String()
	if name == "" {
		l.name = l.path
		return l, nil
	}
	if err := l.claim(); err != nil {
		l.ln.Close()
		return nil, fmt.Errorf("tandem: listen at the file %s: is it the socket at %s: %w", f.Name(), name, failed(err))
	}
	return l, nil
}

// claim finds the listener's file under its name. A connection tells whether it is: it has to be one
// to this process.
func (l *Listener) claim() error {
	a, err := parse(l.name)
	if err == nil {
		err = a.locate(false)
	}
	if err != nil {
		return err
	}
	var s *site
	var id fs.FileInfo
	target := l.name
	if !a.abstract {
		target = a.path
		if s, err = openSite(a.path); err != nil {
			return err
		}
		if id, err = s.root.Lstat(s.name()); err == nil && !mine(id) {
			err = fmt.Errorf("%w: another's file is there, of mode %v", ErrNotAllowed, id.Mode())
		}
	}
	if err == nil {
		err = l.reached(target)
	}
	if err != nil {
		if s != nil {
			s.close()
		}
		return err
	}
	l.path, l.site, l.id = target, s, id
	return nil
}

// claimWait bounds how long a full queue may keep us from knowing what is at a name.
const claimWait = 5 * time.Second

// reached returns an error unless whoever connects to target reaches this listener.
func (l *Listener) reached(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), claimWait)
	defer cancel()
	conn, peer, err := connect(ctx, target)
	if err != nil {
		return err
	}
	defer conn.Close()
	if there, here := conn.RemoteAddr().String(), l.ln.Addr().String(); there != here {
		return fmt.Errorf("%w: the socket there was bound to %s, this one to %s", ErrServed, there, here)
	}
	if runtime.GOOS == "linux" && peer.PID != os.Getpid() {
		return fmt.Errorf("%w: process %d listens there", ErrServed, peer.PID)
	}
	return nil
}

// Name returns the name that the listener was made with.
func (l *Listener) Name() string { return l.name }

// Path returns the path of the socket, or the name of an abstract one.
func (l *Listener) Path() string { return l.path }

// File returns a copy of the socket, for a successor that goes on listening with [FromFile]. The
// caller closes it. Call Keep, too, unless this listener is closed only after the successor.
func (l *Listener) File() (*os.File, error) {
	f, err := copyOf(l.ln)
	if err != nil {
		return nil, fmt.Errorf("tandem: listener at %s: %w", l.path, failed(err))
	}
	return f, nil
}

// Listen makes this process the one that the system names to those who connect, after a process
// that was given the File has listened on it, and has not become the successor. That fails only
// when the listener is closed.
func (l *Listener) Listen() { _ = listenAgain(l.ln) }

// Keep makes Close leave the socket file: a successor listens there.
func (l *Listener) Keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = true
}

// Keeps reports whether Close leaves the socket file, as it was made by somebody else, or a
// successor listens there.
func (l *Listener) Keeps() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.site == nil || l.kept
}

// Close stops listening. It removes the socket file, if it is still the one that this listener has made
// or claimed: first, so that nobody finds the file and nobody there. Connections live on. Only the first
// Close does anything.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	var removed error
	if l.site != nil {
		if !l.kept {
			removed = l.site.remove(l.id)
		}
		l.site.close()
	}
	if err := errors.Join(removed, l.ln.Close()); err != nil {
		return fmt.Errorf("tandem: stop to listen at %s: %w", l.path, err)
	}
	return nil
}

// remove removes the socket if it is the one of id, which this process has open. That takes no lock:
// see the proof in the documentation of the package.
func (s *site) remove(id fs.FileInfo) error {
	now, err := s.root.Lstat(s.name())
	if err == nil && os.SameFile(now, id) {
		err = s.root.Remove(s.name())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

//go:build unix

package process

import (
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// copySize is how many bytes are copied at a time.
	copySize = 16 << 10
	// maxLeft is how many bytes are taken out of a pipe whose process has ended. No
	// pipe holds more, by default; what comes beyond is a descendant's.
	maxLeft = 1 << 20
)

// input copies from the user's reader to stdin.
type input struct {
	from io.Reader
	to   *os.File
	turn *turn
}

// input returns the end of a new pipe that the process reads.
func (s *stdio) input(from io.Reader) (*os.File, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, theirs)
	s.copies = append(s.copies, &input{from, ours, turnOf(from)})
	return theirs, nil
}

func (i *input) run(letGo <-chan struct{}) {
	defer i.free()
	defer i.to.Close()
	buf := make([]byte, copySize)
	for {
		if !i.turn.take(letGo) {
			return
		}
		n, err := i.from.Read(buf)
		i.turn.give()
		if n > 0 {
			if _, err := i.to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (i *input) close() { i.to.Close() }

func (i *input) free() { i.turn.leave() }

// stream copies from stdout or stderr to the user's writer.
type stream struct {
	from *os.File
	raw  syscall.RawConn
	to   io.Writer   // nil: what comes is dropped
	own  *os.File    // to, if it is a file of our own
	turn *turn       // nil if there was no writer
	tail *stderrTail // nil: of what comes nothing is kept

	mu      sync.Mutex // guards the following
	buf     [copySize]byte
	pending []byte // was read, and is to be written
	spare   []byte // memory for the next pending
	ended   bool   // there is no more to read
}

// output returns the end of a new pipe that the process writes to. If there is a
// tail, all is read, whatever becomes of to.
func (s *stdio) output(to io.Writer, tail *stderrTail) (*os.File, error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, theirs)
	raw, err := ours.SyscallConn()
	if err != nil {
		ours.Close()
		return nil, err
	}
	o := &stream{from: ours, raw: raw, to: to, tail: tail}
	s.copies, s.outputs = append(s.copies, o), append(s.outputs, o)
	if to != nil {
		o.turn = turnOf(to)
	}
	if f, ok := to.(*os.File); ok {
		// One of our own, as if inherited: it stays open if the user closes theirs, and,
		// since it is neither 1 nor 2, the host does not get SIGPIPE if nobody reads it.
		o.to = nil
		switch o.own, err = duplicate(f); {
		case err == nil:
			o.to = o.own
		case IsShortage(err):
			return nil, err
		}
	}
	return theirs, nil
}

// duplicate returns another descriptor of f.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	n := -1
	var dup error
	if err := raw.Control(func(fd uintptr) { n, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, os.NewSyscallError("fcntl", dup)
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}

func (o *stream) run(letGo <-chan struct{}) {
	defer o.free()
	defer o.from.Close()
	for {
		b := o.next()
		if len(b) == 0 {
			return
		}
		if o.to == nil {
			continue
		}
		if !o.turn.take(letGo) {
			return
		}
		n, err := o.to.Write(b)
		o.turn.give()
		if err != nil || n < len(b) {
			// As os/exec does, stop. But go on reading for the tail.
			if o.tail == nil {
				return
			}
			o.to = nil
		}
	}
}

// next waits for what is to be written. It returns nothing at the end, or after
// close. The result is valid until the next call.
func (o *stream) next() (b []byte) {
	_ = o.raw.Read(func(fd uintptr) bool { // its error is that of close
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.pending) == 0 {
			o.read(int(fd))
		}
		b, o.pending, o.spare = o.pending, o.spare[:0], o.pending
		return len(b) > 0 || o.ended
	})
	return b
}

// read reads once, if there is something, and returns how many bytes. mu is held.
func (o *stream) read(fd int) int {
	n, err := unix.Read(fd, o.buf[:])
	for err == unix.EINTR {
		n, err = unix.Read(fd, o.buf[:])
	}
	if err == unix.EAGAIN {
		return 0
	}
	if err != nil || n == 0 {
		o.ended = true
		return 0
	}
	if o.tail != nil {
		o.tail.add(o.buf[:n])
	}
	o.pending = append(o.pending, o.buf[:n]...)
	return n
}

// empty reads what is left in the pipe, also while run waits for the user's writer.
func (o *stream) empty() {
	_ = o.raw.Control(func(fd uintptr) { // it fails if run has ended
		o.mu.Lock()
		defer o.mu.Unlock()
		for left := maxLeft; left > 0; {
			n := o.read(int(fd))
			if n == 0 {
				return
			}
			left -= n
		}
	})
}

func (o *stream) close() { o.from.Close() }

func (o *stream) free() {
	if o.turn != nil {
		o.turn.leave()
	}
	if o.own != nil {
		o.own.Close()
	}
}

package ipc

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// File is an open file that crosses to another process: a file, a socket, a listener or a pipe, in
// a field of a message with the codecs [CBOR] and [JSON], or as the payload with [Raw]. The
// receiver gets a descriptor of its own of what was opened.
//
// Who sends a request, a notification or an item keeps its file, and may close it when that was
// sent. A handler that returns a file gives it away: the file is closed when the response was sent, or
// could not be. A receiver takes the file out with Take, and then has to close that, or closes it with
// Close. Those of a request that nobody has taken are closed when the handler has returned, and what
// is forgotten by the garbage collector, which is counted and told. A message has at most [MaxFiles].
//
// A call fails with [os.ErrClosed] if a file was closed before it was sent, with [ErrExhausted] or
// CodeResourceExhausted if a side has no descriptor left for it, and with [ErrUnsupported] where the
// system or the driver passes no files. Nothing of the file is changed: it blocks, at either end, just if it did
// before.
//
// Copies of a File are the same file. The zero File is none, and may be sent. The methods
// may be called by any goroutine.
type File struct {
	h  *fileHolder
	id uint64
}

type fileHolder struct {
	file atomic.Pointer[os.File]
	lost error                // why there never was one
	done func(forgotten bool) // called when somebody has taken the file, or nobody will; or nil
}

// NewFile returns f as what can be sent. f stays the caller's, and has to be open until the message
// was sent. It panics if f is nil.
func NewFile(f *os.File) File {
	if f == nil {
		panic("tandem: NewFile(nil)")
	}
	h := new(fileHolder)
	h.file.Store(f)
	return File{h, lastID.Add(1)}
}

// NewReceivedFile is NewFile for a file that came in a message. done is called once: when somebody has
// taken the file, it was closed, or the garbage collector has found that it was forgotten. It is for
// drivers.
func NewReceivedFile(f *os.File, done func(forgotten bool)) File {
	file := NewFile(f)
	var once sync.Once
	file.h.done = func(forgotten bool) { once.Do(func() { done(forgotten) }) }
	runtime.AddCleanup(file.h, func(done func(bool)) { done(true) }, file.h.done)
	return file
}

// DuplicateFile returns a duplicate of f as what can be sent, for a handler that returns a file and
// keeps it: what a handler returns is closed when the response was sent. f may be closed at
// once. It fails if f is closed, or this process has no descriptor left.
func DuplicateFile(f *os.File) (File, error) {
	own, err := duplicate(f)
	if err != nil {
		return File{}, fmt.Errorf("tandem: duplicate a file: %w", err)
	}
	return NewFile(own), nil
}

// Take returns the open file, which is the caller's from now on, and has to be closed. It returns nil
// if f is the zero File, or was taken or closed before.
func (f File) Take() *os.File {
	if f.h == nil {
		return nil
	}
	file := f.h.file.Swap(nil)
	if file != nil && f.h.done != nil {
		f.h.done(false)
	}
	return file
}

// File returns the open file, which stays f's. It returns nil if there is none any more.
func (f File) File() *os.File {
	if f.h == nil {
		return nil
	}
	return f.h.file.Load()
}

// Close closes the file, unless somebody has taken it.
func (f File) Close() {
	if file := f.Take(); file != nil {
		file.Close()
	}
}

// IsZero reports whether f is the zero File.
func (f File) IsZero() bool { return f == File{} }

package ipc

import (
	"fmt"
	"os"
	"runtime"
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
	file  atomic.Pointer[os.File]
	lost  error  // why there never was one
	owned *owned // of a received file, otherwise nil
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

// FileOwner is the link that a file has come by. One of its methods is called for each file, once, by any
// goroutine. They do not block.
type FileOwner interface {
	// Left takes that the program has taken or closed a file, or that the garbage collector has found
	// that it was forgotten.
	Left(forgotten bool)
	// Drop closes a file that nobody has taken. To close what a peer has sent may take as long as the
	// peer likes, so that happens where nobody waits for it.
	Drop(f *os.File)
}

// NewReceivedFile is NewFile for a file that came in a message. It is for drivers.
func NewReceivedFile(f *os.File, owner FileOwner) File {
	file := NewFile(f)
	o := &owned{owner: owner}
	file.h.owned = o
	runtime.AddCleanup(file.h, func(o *owned) {
		if !o.over.Swap(true) {
			o.owner.Left(true)
		}
	}, o)
	return file
}

// owned is that a file has an owner, who was told what has become of it or was not.
type owned struct {
	owner FileOwner
	over  atomic.Bool
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
	if o := f.h.owned; file != nil && o != nil && !o.over.Swap(true) {
		o.owner.Left(false)
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

// Close closes the file, unless somebody has taken it. That may block, as with any file: how long is up to the system
// that the file is of, and perhaps to who has sent it.
func (f File) Close() {
	if file := f.Take(); file != nil {
		file.Close()
	}
}

// drop is Close for a file that nobody has wanted, or that was given away. It does not wait for that.
func (f File) drop() {
	if f.h == nil {
		return
	}
	o, file := f.h.owned, f.h.file.Swap(nil)
	switch {
	case file == nil:
	case o != nil && !o.over.Swap(true):
		o.owner.Drop(file)
	case dropping.Add(1) <= maxDropping:
		go func() { // the peer has it, too, and may have made that closing it takes long
			defer dropping.Add(-1)
			file.Close()
		}()
	default:
		dropping.Add(-1)
		file.Close()
	}
}

// dropping is how many files without an owner are being closed. Each that blocks takes a thread.
var dropping atomic.Int64

const maxDropping = 1000

// IsZero reports whether f is the zero File.
func (f File) IsZero() bool { return f == File{} }

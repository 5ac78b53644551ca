package ipc

import (
	"errors"
	"slices"
	"sync"
)

// Attachments are what travels with a message beside its bytes: the buffers and the open files
// that the message has in its fields, or is. The codec writes a number for each, by which the
// receiver finds it.
type Attachments struct {
	Buffers []Attached[Buffer]
	Files   []Attached[File]

	// Most messages have one, which takes no memory of its own.
	one    [1]Attached[Buffer]
	handle [32]byte
}

// Attached is an attachment with the number that stands for it in the message.
type Attached[T any] struct {
	Number uint64
	What   T
	used   bool  // a part of the message names it
	lost   error // why it could not be taken, or nil
}

// The most attachments that a message may have.
const (
	MaxBuffers = 256
	MaxFiles   = 16
)

// Release releases all buffers, and closes all files that nobody has taken; those that were received it
// closes where nobody waits for it. a may be nil.
func (a *Attachments) Release() {
	if a == nil {
		return
	}
	a.releaseBuffers()
	for _, f := range a.Files {
		f.What.drop()
	}
}

// ReleaseExcept is Release for what is not in other, which may be nil.
func (a *Attachments) ReleaseExcept(other *Attachments) {
	if a == nil {
		return
	}
	for _, b := range a.Buffers {
		if other == nil || !slices.ContainsFunc(other.Buffers, func(o Attached[Buffer]) bool { return o.What == b.What }) {
			b.What.Release()
		}
	}
	for _, f := range a.Files {
		if other == nil || !slices.ContainsFunc(other.Files, func(o Attached[File]) bool { return o.What == f.What }) {
			f.What.drop()
		}
	}
}

// Add adds a buffer that came with a message, under the number that stands for it there.
func (a *Attachments) Add(number uint64, b Buffer) {
	if a.Buffers == nil {
		a.Buffers = a.one[:0]
	}
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: number, What: b})
}

var attachmentsPool = sync.Pool{New: func() any { return new(Attachments) }}

// NewAttachments returns empty attachments, which Recycle may take back.
func NewAttachments() *Attachments { return attachmentsPool.Get().(*Attachments) }

// Recycle takes the memory of a, which nobody uses any more. What a has was released or is
// another's. a may be nil.
func (a *Attachments) Recycle() {
	if a != nil {
		*a = Attachments{}
		attachmentsPool.Put(a)
	}
}

// Move makes what from has a's, instead of what a has had, and recycles from.
func (a *Attachments) Move(from *Attachments) {
	if a.Buffers, a.Files = from.Buffers, from.Files; len(a.Buffers) == 1 {
		a.one[0] = from.Buffers[0]
		a.Buffers = a.one[:]
	}
	from.Recycle()
}

// AddLost is Add for a buffer that could not be taken. A message that names it is not decoded, but
// fails with why.
func (a *Attachments) AddLost(number uint64, why error) {
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: number, lost: why})
}

// Space returns empty memory for what a link writes for the attachments, which lives as long as they.
// It is enough for one.
func (a *Attachments) Space() []byte { return a.handle[:0] }

// AddFile is Add for a file.
func (a *Attachments) AddFile(number uint64, f File) {
	a.Files = append(a.Files, Attached[File]{Number: number, What: f})
}

// AddLostFile is AddFile for a file that could not be taken. A message that names it is not
// decoded, but fails with why.
func (a *Attachments) AddLostFile(number uint64, why error) {
	a.Files = append(a.Files, Attached[File]{Number: number, What: File{&fileHolder{lost: why}, lastID.Add(1)}})
}

// Empty reports whether there is none. a may be nil.
func (a *Attachments) Empty() bool { return a == nil || len(a.Buffers)+len(a.Files) == 0 }

// hold returns attachments with holders of their own of the buffers. It fails if one was
// released. The files stay the caller's. a may be nil.
func (a *Attachments) hold() (*Attachments, error) {
	if a == nil {
		return nil, nil
	}
	own := &Attachments{Buffers: make([]Attached[Buffer], 0, len(a.Buffers)), Files: a.Files}
	for _, b := range a.Buffers {
		another, ok := b.What.Hold()
		if !ok {
			own.releaseBuffers()
			return nil, errReleased
		}
		own.Buffers = append(own.Buffers, Attached[Buffer]{Number: b.Number, What: another})
	}
	return own, nil
}

// releaseBuffers releases all buffers. a may be nil.
func (a *Attachments) releaseBuffers() {
	if a != nil {
		for _, b := range a.Buffers {
			b.What.Release()
		}
	}
}

var errReleased = errors.New("tandem: a Buffer is sent after Release")

package socket

import (
	"fmt"
	"os"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// The files of a frame cross with its first byte, by one system call, and its prefix says how many
// they are. So they come with the bytes that one read of the receiver returns, which are a parcel.
// A frame with files takes the oldest parcel, also if its sender has abandoned it.

var _ drivers.Sharer = (*link)(nil)

// Shares implements [drivers.Sharer].
func (l *link) Shares() (buffers, files bool) { return false, filesSupported }

// OnForgotten implements [drivers.Sharer].
func (l *link) OnForgotten(tell func(what string, bytes int)) { l.reader.files.Forgotten = tell }

// parcel is what one read has brought.
type parcel struct {
	files []*os.File
	lost  bool // some more, for which this process has no descriptor, or too many
}

// discard closes what has come in a parcel, soon.
func (rd *reader) discard(p parcel) {
	for _, f := range p.files {
		rd.files.Discard(f)
	}
}

// maxParcels is how many parcels wait for their frames. A read ends where files come, and nothing is
// read while there is a whole frame: so there are those of a frame of which a part has come, and,
// with its rest, those of the next.
const maxParcels = 2

// attach returns the files that are to cross with f, and appends their handles to those of f.
func attach(f *drivers.Frame) (files []*os.File, err error) {
	for i := range f.Attached.Files {
		what := &f.Attached.Files[i]
		file, err := drivers.OpenFile(what)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
		h := drivers.Handle{Number: what.Number, Place: uint32(i), Region: drivers.FileRegion}
		f.Handles = h.Append(f.Handles)
	}
	return files, nil
}

// withDescriptors calls fn with the descriptors of files, which stay valid meanwhile.
func withDescriptors(files []*os.File, fds []int, fn func(fds []int) error) error {
	if len(fds) == len(files) {
		return fn(fds)
	}
	raw, err := files[len(fds)].SyscallConn()
	if err != nil {
		return &drivers.AttachError{Err: err}
	}
	var inner error
	if raw.Control(func(fd uintptr) { inner = withDescriptors(files, append(fds, int(fd)), fn) }) != nil {
		return &drivers.AttachError{Err: os.ErrClosed} // which is what the error means
	}
	return inner
}

// received keeps the files that a read has brought.
func (rd *reader) received(oob []byte, flags int) error {
	p, err := parcelOf(oob, flags)
	if err != nil {
		rd.discard(p)
		return err
	}
	if len(p.files) == 0 && !p.lost {
		return nil
	}
	if len(rd.parcels) == maxParcels {
		rd.discard(p)
		return fmt.Errorf("%w: socket: files that no frame has", ipc.ErrProtocol)
	}
	rd.parcels = append(rd.parcels, p)
	return nil
}

// nextParcel takes the oldest parcel out, if there is one.
func (rd *reader) nextParcel() (p parcel, ok bool) {
	if len(rd.parcels) == 0 {
		return p, false
	}
	p = rd.parcels[0]
	rd.parcels = rd.parcels[:copy(rd.parcels, rd.parcels[1:])]
	return p, true
}

func (rd *reader) closeParcels() {
	for {
		p, ok := rd.nextParcel()
		if !ok {
			return
		}
		rd.discard(p)
	}
}

// detach makes the oldest parcel the files of f, or closes it if the sender has abandoned f, so that
// whole is false. n is how many files the prefix says.
func (rd *reader) detach(f *drivers.Frame, n int, whole bool) error {
	var p parcel
	ok := true
	if n > 0 {
		p, ok = rd.nextParcel()
	}
	switch {
	case !ok, len(p.files) > n, p.lost && len(p.files) >= n, !p.lost && len(p.files) < n:
		rd.discard(p)
		return fmt.Errorf("%w: socket: a frame of %d files comes with %d", ipc.ErrProtocol, n, len(p.files))
	case !whole:
		rd.discard(p)
		return rd.files.Room()
	}
	var a ipc.Attachments
	taken := 0
	err := f.Files(func(h drivers.Handle) error {
		if int(h.Place) != taken || taken == n {
			return fmt.Errorf("%w: socket: a frame of %d files names file %d, after %d", ipc.ErrProtocol, n, h.Place, taken)
		}
		var file *os.File
		var lost error
		if taken < len(p.files) {
			file = p.files[taken]
		} else {
			lost = &drivers.AttachError{Err: process.Shortage(os.NewSyscallError("recvmsg", syscall.EMFILE))}
		}
		taken++
		return rd.files.TakeFile(&a, h, file, lost)
	})
	if err == nil && taken < n {
		err = fmt.Errorf("%w: socket: a frame of %d files names %d", ipc.ErrProtocol, n, taken)
	}
	if err != nil {
		a.Release()
		p.files = p.files[min(taken, len(p.files)):]
		rd.discard(p)
		return err
	}
	if n > 0 {
		f.Attached = &a
	}
	return nil
}

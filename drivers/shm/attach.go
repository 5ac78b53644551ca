package shm

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var _ drivers.Sharer = (*link)(nil)

// Shares implements [drivers.Sharer].
func (l *link) Shares() (buffers, files bool) { return true, true }

// OnForgotten implements [drivers.Sharer].
func (l *link) OnForgotten(tell func(what string, bytes int)) {
	l.held.Forgotten = tell
	l.imports.mu.Lock()
	l.imports.forgotten = tell
	l.imports.mu.Unlock()
}

// attachFiles passes the files of f, and appends their handles. The caller holds the lock of the
// senders, and has published all earlier frames, since the peer may have to take them first.
func (l *link) attachFiles(ctx context.Context, f *drivers.Frame) error {
	for i := range f.Attached.Files {
		what := &f.Attached.Files[i]
		file, err := drivers.OpenFile(what)
		if err != nil {
			return err
		}
		if err := l.sendControl(ctx, controlFile, l.sentFiles, 0, file); err != nil {
			return err
		}
		h := drivers.Handle{Number: what.Number, Place: l.sentFiles, Region: drivers.FileRegion}
		f.Handles = h.Append(f.Handles)
		l.sentFiles++
	}
	return nil
}

// unattach undoes attachBuffers and attachFiles for a frame that was not sent.
func (l *link) unattach(f *drivers.Frame) {
	var files []uint32
	var buffers []byte
	for list := f.Handles; len(list) > 0; { // which are ours
		h, rest, err := drivers.NextHandle(list)
		if err != nil {
			break
		}
		if h.Region == drivers.FileRegion {
			files = append(files, h.Place)
		} else {
			buffers = h.Append(buffers)
		}
		list = rest
	}
	l.dropFiles(files)
	if buffers != nil {
		l.exports.takeBack(buffers)
	}
}

// detach makes what the handles of f name its attachments. If it fails the peer has broken the
// protocol, or the link has ended, or this process is short of something.
func (l *link) detach(f *drivers.Frame) error {
	a := ipc.NewAttachments()
	for list := f.Handles; len(list) > 0; {
		h, rest, err := drivers.NextHandle(list)
		switch {
		case err != nil:
		case h.Region == drivers.FileRegion:
			err = l.takeFile(a, h)
		default:
			err = l.takeBuffer(a, &h)
		}
		if err != nil {
			a.Release()
			return err
		}
		list = rest
	}
	f.Attached = a
	return nil
}

// takeFile adds the file that h names to a.
func (l *link) takeFile(a *ipc.Attachments, h drivers.Handle) error {
	f, err := l.waitingFile(h.Place)
	if err != nil {
		return err
	}
	return l.held.TakeFile(a, h, f.file, f.missing)
}

// waitingFile takes the file that a frame names out of those that have come.
func (l *link) waitingFile(index uint32) (waitingFile, error) {
	in := &l.in
	in.mu.Lock()
	defer in.mu.Unlock()
	has := func() bool { return in.files.find(index) >= 0 }
	if !has() {
		l.catchUp(has)
	}
	f, ok := in.files.take(index)
	switch end := l.end.Load(); {
	case !ok && end != nil:
		return f, *end
	case !ok:
		return f, fmt.Errorf("%w: shm: a frame names file %d, which has not come or was taken", ipc.ErrProtocol, index)
	}
	if in.full {
		l.catchUp(nil) // there is room again, and nobody else knows
	}
	return f, nil
}

package drivers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
)

// FileRegion is the region of a [Handle] that stands for an open file, which the link has carried
// itself. Its place is the link's own business; it has neither offset nor size.
const FileRegion = 0xffffffff

// An AttachError says why a buffer or a file of a frame could not be passed. The frame was not sent, and the link
// is as good as before.
type AttachError struct{ Err error }

func (e *AttachError) Error() string {
	return "tandem: pass a buffer or a file: " + strings.TrimPrefix(e.Err.Error(), "tandem: ")
}

// Unwrap returns why.
func (e *AttachError) Unwrap() error { return e.Err }

// OpenFile returns the open file of an attachment that is to be sent, or an [*AttachError].
func OpenFile(a *ipc.Attached[ipc.File]) (*os.File, error) {
	f := a.What.File()
	if f == nil {
		return nil, &AttachError{os.ErrClosed}
	}
	return f, nil
}

// MaxHeldFiles is how many files of a link a process may have that came in messages and that nobody
// has taken or closed. Further ones are lost: their messages fail. So a peer cannot use up the
// descriptors of this process.
const MaxHeldFiles = 1024

// HeldFiles counts such files of one link. The zero value is useful.
type HeldFiles struct {
	n atomic.Int64
	// Forgotten, if not nil, is called for each file that was forgotten. It is set before the first
	// comes.
	Forgotten func(what string, bytes int)
}

// errHeldFiles is why a file is lost that is one too many.
var errHeldFiles = &ipc.ExhaustedError{
	Resource: "files of one link", Limit: fmt.Sprintf("the most are %d", MaxHeldFiles),
	Err: errors.New("handlers have as many that they have not taken or closed"),
}

// TakeFile adds the file that h stands for to a: f, which is a's from now on, or, if f is nil, why
// it was lost. If h is none that a correct peer makes it closes f and fails.
func (held *HeldFiles) TakeFile(a *ipc.Attachments, h Handle, f *os.File, lost error) error {
	err := checkFile(a, h)
	if err == nil && f != nil && held.n.Add(1) > MaxHeldFiles {
		held.n.Add(-1)
		f.Close()
		f, lost = nil, &AttachError{errHeldFiles}
	}
	switch {
	case err != nil:
		if f != nil {
			f.Close()
		}
	case f == nil:
		a.AddLostFile(h.Number, lost)
	default:
		a.AddFile(h.Number, ipc.NewReceivedFile(f, held.left))
	}
	return err
}

// left takes that a file was taken, closed or forgotten.
func (held *HeldFiles) left(forgotten bool) {
	held.n.Add(-1)
	if forgotten && held.Forgotten != nil {
		held.Forgotten("file", 0)
	}
}

func checkFile(a *ipc.Attachments, h Handle) error {
	if h.Number == 0 || h.Region != FileRegion || h.Offset != 0 || h.Size != 0 {
		return fmt.Errorf("%w: malformed frame: %+v is no handle of a file", ipc.ErrProtocol, h)
	}
	if len(a.Files) == ipc.MaxFiles {
		return fmt.Errorf("%w: malformed frame: more than %d files", ipc.ErrProtocol, ipc.MaxFiles)
	}
	for i := range a.Files {
		if a.Files[i].Number == h.Number {
			return fmt.Errorf("%w: malformed frame: two files of number %d", ipc.ErrProtocol, h.Number)
		}
	}
	return nil
}

// Files calls fn for each handle of a file in the handles of f, until that fails. It fails if
// the handles are malformed.
func (f *Frame) Files(fn func(Handle) error) error {
	for list := f.Handles; len(list) > 0; {
		h, rest, err := NextHandle(list)
		if err == nil && h.Region == FileRegion {
			err = fn(h)
		}
		if err != nil {
			return err
		}
		list = rest
	}
	return nil
}

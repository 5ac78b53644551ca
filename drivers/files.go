package drivers

import (
	"os"
	"strings"

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

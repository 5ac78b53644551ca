package drivers

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// MaxHeldFiles is how many files of a link a process may have that came in messages and that nobody
// has taken or closed. Further ones are lost: their messages fail. So a peer cannot use up the
// descriptors of this process. As many more may wait to be closed.
const MaxHeldFiles = 1024

// HeldFiles counts such files of one link, and closes those that nobody wants. To close a file may block for as long
// as a peer likes: on a file system of its own, or if it is a socket that lingers. So a goroutine of the link does it, and
// nobody waits for that. The zero value is useful. It is safe for concurrent use.
type HeldFiles struct {
	n atomic.Int64
	// Forgotten, if not nil, is called for each file that was forgotten. It is set before the first
	// comes.
	Forgotten func(what string, bytes int)

	mu    sync.Mutex
	files []*os.File // to be closed
	// closed is closed when the next one is, and nil while there is none.
	closed chan struct{}
}

// errHeldFiles is why a file is lost that is one too many.
var errHeldFiles = &ipc.ExhaustedError{
	Resource: "files of one link", Limit: fmt.Sprintf("the most are %d", MaxHeldFiles),
	Err: errors.New("handlers have as many that they have not taken or closed"),
}

// TakeFile adds the file that h stands for to a: f, which is a's from now on, or, if f is nil, why
// it was lost. If h is none that a correct peer makes, or too many of its files wait to be closed, it
// closes f and fails.
func (held *HeldFiles) TakeFile(a *ipc.Attachments, h Handle, f *os.File, lost error) error {
	err := checkFile(a, h)
	if err == nil {
		err = held.Room()
	}
	if err == nil && f != nil && held.n.Add(1) > MaxHeldFiles {
		held.n.Add(-1)
		held.Discard(f)
		f, lost = nil, &AttachError{errHeldFiles}
	}
	switch {
	case err != nil:
		held.Discard(f)
	case f == nil:
		a.AddLostFile(h.Number, lost)
	default:
		a.AddFile(h.Number, ipc.NewReceivedFile(f, held))
	}
	return err
}

// Left implements [ipc.FileOwner].
func (held *HeldFiles) Left(forgotten bool) {
	held.n.Add(-1)
	if forgotten && held.Forgotten != nil {
		held.Forgotten("file", 0)
	}
}

// Drop implements [ipc.FileOwner].
func (held *HeldFiles) Drop(f *os.File) {
	held.n.Add(-1)
	held.later(f)
}

// Discard closes a file that no message has, soon. f may be nil. Who goes on taking files after that has to ask for Room.
func (held *HeldFiles) Discard(f *os.File) {
	if f != nil {
		held.later(f)
	}
}

// stuck is how long no file is closed before the others have waited for it long enough.
const stuck = 5 * time.Second

// Room waits while very many files are to be closed. It fails if that makes no progress, so that a peer whose files
// cannot be closed does not use up the descriptors of this process.
func (held *HeldFiles) Room() error {
	held.mu.Lock()
	defer held.mu.Unlock()
	for len(held.files) > MaxHeldFiles {
		closed := held.closed
		held.mu.Unlock()
		select {
		case <-closed:
			held.mu.Lock()
		case <-time.After(stuck):
			held.mu.Lock()
			if held.closed == closed {
				return fmt.Errorf("%w: more than %d files of the peer wait to be closed, which takes for ever", ipc.ErrProtocol, MaxHeldFiles)
			}
		}
	}
	return nil
}

// later closes f in a goroutine that closes one file after the other.
func (held *HeldFiles) later(f *os.File) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.files = append(held.files, f); held.closed == nil {
		held.closed = make(chan struct{})
		go held.closeAll()
	}
}

// closeAll closes files while there are some.
func (held *HeldFiles) closeAll() {
	held.mu.Lock()
	defer held.mu.Unlock()
	for len(held.files) > 0 {
		f := held.files[0]
		held.files = held.files[1:]
		held.mu.Unlock()
		f.Close()
		held.mu.Lock()
		close(held.closed)
		held.closed = make(chan struct{})
	}
	held.files, held.closed = nil, nil
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

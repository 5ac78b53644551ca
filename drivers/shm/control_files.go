package shm

import (
	"fmt"
	"os"
	"slices"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// waitingFiles are the files that have come and that no frame has named yet.
type waitingFiles struct {
	held *drivers.HeldFiles // closes what nobody wants
	list []waitingFile      // in their order
	next uint32             // index of the next one
}

type waitingFile struct {
	index   uint32
	file    *os.File
	missing error // why there is no file
}

func (w *waitingFiles) full() bool { return len(w.list) >= maxWaitingFiles }

// add adds a file that has come, or why it has not.
func (w *waitingFiles) add(index uint32, size uint64, f *os.File, missing error) error {
	if index != w.next || size != 0 {
		w.held.Discard(f)
		return fmt.Errorf("%w: shm: file %d of size %d on the control socket, expected was file %d", ipc.ErrProtocol, index, size, w.next)
	}
	w.next++
	w.list = append(w.list, waitingFile{index, f, missing})
	return nil
}

func (w *waitingFiles) find(index uint32) int {
	return slices.IndexFunc(w.list, func(f waitingFile) bool { return f.index == index })
}

// take takes the file with an index out.
func (w *waitingFiles) take(index uint32) (f waitingFile, ok bool) {
	i := w.find(index)
	if i < 0 {
		return f, false
	}
	f = w.list[i]
	w.list = slices.Delete(w.list, i, i+1)
	return f, true
}

// drop closes a file that no frame will name.
func (w *waitingFiles) drop(index uint32) error {
	f, ok := w.take(index)
	if !ok {
		return fmt.Errorf("%w: shm: file %d is dropped, which has not come", ipc.ErrProtocol, index)
	}
	w.held.Discard(f.file)
	return w.held.Room()
}

// close closes all files.
func (w *waitingFiles) close() {
	for _, f := range w.list {
		w.held.Discard(f.file)
	}
	w.list = nil
}

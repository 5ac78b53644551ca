package ipc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/sealed"
)

// shared is one side's access to shared memory, by an A. Closing it does not wait for those
// who use the memory at that moment: it is unmapped when the last of them has finished.
type shared[A any] struct{ mapped atomic.Pointer[mapped[A]] }

// mapped keeps memory mapped for as long as anybody can reach it.
type mapped[A any] struct {
	access A
	memory *sealed.Memory
}

func (s *shared[A]) set(access A, memory *sealed.Memory) {
	m := &mapped[A]{access, memory}
	runtime.AddCleanup(m, func(memory *sealed.Memory) { memory.Close() }, memory)
	s.mapped.Store(m)
}

// use returns what is mapped, nil after close. The caller keeps it alive while it touches the
// memory.
func (s *shared[A]) use() *mapped[A] { return s.mapped.Load() }

// close ends all later uses, and closes the descriptor.
func (s *shared[A]) close() error {
	m := s.mapped.Swap(nil)
	if m == nil {
		return nil
	}
	return m.memory.CloseFile()
}

// file returns the descriptor of memory that this process has made.
func (s *shared[A]) file() *os.File {
	m := s.use()
	if m == nil {
		return nil
	}
	return m.memory.File()
}

// makeShared makes memory, and access to it.
func makeShared[A any](s *shared[A], name string, size int, access func(mem []byte) (A, error)) error {
	memory, err := sealed.Create(name, size)
	if err != nil {
		return unsupported(err)
	}
	return s.enter(memory, access)
}

// openShared maps memory of another process, of at most limit bytes.
func openShared[A any](s *shared[A], f *os.File, limit int, access func(mem []byte) (A, error)) error {
	memory, err := sealed.Open(f, 1, limit)
	if err != nil {
		return unsupported(err)
	}
	return s.enter(memory, access)
}

func (s *shared[A]) enter(memory *sealed.Memory, access func(mem []byte) (A, error)) error {
	a, err := access(memory.Bytes())
	if err != nil {
		memory.Close()
		return err
	}
	s.set(a, memory)
	return nil
}

// unsupported makes an error that says so an [ErrUnsupported], too, and a shortage an [ErrExhausted].
func unsupported(err error) error {
	if errors.Is(err, sealed.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return shortage(err)
}

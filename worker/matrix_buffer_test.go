//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"os"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The buffers of the matrix. A worker returns a copy of what it gets, at once, or when the gate
// opens.
var (
	bufferCopy = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("matrix.buffer_copy", ipc.WithCodec(ipc.Raw))
	bufferStay = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("matrix.buffer_stay", ipc.WithCodec(ipc.Raw))
)

func copyOf(ctx context.Context, b ipc.Buffer) (ipc.Buffer, error) {
	c, err := worker.Alloc(ctx, b.Len())
	if err == nil {
		copy(c.Bytes(), b.Bytes())
	}
	return c, err
}

func (s *stage) handleBuffers(r worker.Registrar) {
	worker.Handle(r, bufferCopy, copyOf)
	worker.Handle(r, bufferStay, func(ctx context.Context, b ipc.Buffer) (ipc.Buffer, error) {
		kept := b.Retain() // as one does that uses it in another goroutine
		defer kept.Release()
		s.note("stays", strconv.Itoa(os.Getpid()))
		select {
		case <-s.proceed():
			return copyOf(ctx, kept)
		case <-ctx.Done():
			return ipc.Buffer{}, ctx.Err()
		}
	})
}

// bufferCall returns what calls m with buffers of many sizes.
func bufferCall(a *ipc.Arena, w ipc.Caller, m *ipc.Method[ipc.Buffer, ipc.Buffer]) func(int) error {
	return func(n int) error {
		ctx := context.Background()
		b, err := a.Alloc(ctx, 8<<(n%16))
		if err != nil {
			return err
		}
		defer b.Release()
		for i := range b.Bytes() {
			b.Bytes()[i] = byte(n + i)
		}
		got, err := m.Call(ctx, w, b)
		if err != nil {
			return err
		}
		defer got.Release()
		return unless(bytes.Equal(got.Bytes(), b.Bytes()), nil)
	}
}

// buffersLeft says what is left of an arena whose buffers were released, or nothing.
func buffersLeft(a *ipc.Arena) string {
	if s := a.Stats(); s.Buffers > 0 || len(s.Holders) > 0 {
		return fmt.Sprintf(", and %d buffers are left, with %v", s.Buffers, s.Holders)
	}
	return ""
}

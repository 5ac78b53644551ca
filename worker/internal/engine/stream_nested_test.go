package engine

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"testing"

	"github.com/tandemipc/tandem/ipc"
)

// Handlers of streams that the background readers of both sides run open streams of the side that
// has opened theirs, and so on, and wait for the items of both: none waits for a reader that it
// is itself.
func TestStreamsWithinStreams(t *testing.T) {
	for name, opt := range map[string]func(*Handler){"in the background": (*Handler).Inline, "as usual": func(*Handler) {}} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			handleStream(reg, func(ctx context.Context, st *Stream) error {
				for {
					item, err := st.Receive(ctx)
					if err == io.EOF {
						return nil
					}
					if err != nil {
						return err
					}
					depth, size := item[0], binary.LittleEndian.Uint32(item[1:])
					if depth > 0 {
						if err := converse(ctx, CallerOf(ctx).(ipc.StreamCaller), depth-1, size); err != nil {
							return err
						}
					}
					if err := st.Send(ctx, make([]byte, size)); err != nil {
						return err
					}
				}
			}, opt)
			narrow := roomy
			narrow.room = 3 // frames
			host, worker := newPair(t, narrow, reg)
			var callers sync.WaitGroup
			for i := range 4 {
				callers.Go(func() {
					for j := range 10 {
						s := host
						if i%2 == 1 {
							s = worker
						}
						if err := converse(t.Context(), s, byte(j%6), uint32(1+j*j*j*50)); err != nil {
							t.Errorf("caller %d: %v", i, err)
						}
					}
				})
			}
			callers.Wait()
			settles(t, host)
			settles(t, worker)
		})
	}
}

// converse opens a stream and sends two items, each of which makes the handler do the same if
// depth is more than 0, and answer with an item of size bytes.
func converse(ctx context.Context, c ipc.StreamCaller, depth byte, size uint32) error {
	st, err := c.OpenStream(ctx, rawCall(), &ipc.StreamOpening{})
	if err != nil {
		return err
	}
	defer st.Close()
	for range 2 {
		if err := st.Send(ctx, binary.LittleEndian.AppendUint32([]byte{depth}, size)); err != nil {
			return err
		}
		item, err := st.Receive(ctx)
		if err != nil {
			return err
		}
		if len(item) != int(size) {
			return io.ErrShortBuffer
		}
	}
	if err := st.CloseSend(ctx); err != nil {
		return err
	}
	switch _, err := st.Receive(ctx); err {
	case nil:
		return io.ErrNoProgress
	case io.EOF:
		return nil
	default:
		return err
	}
}

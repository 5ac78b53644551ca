//go:build linux

package worker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The streams of the matrix. Their items are numbered. They go on until the gate opens, if
// all is to go on, or for ever.
var (
	outflow = ipc.NewServerStream[[]byte, []byte]("matrix.outflow", ipc.WithCodec(ipc.Raw))
	inflow  = ipc.NewClientStream[[]byte, []byte]("matrix.inflow", ipc.WithCodec(ipc.Raw)) // answers with how many there were
	halved  = ipc.NewBidiStream[[]byte, []byte]("matrix.halved", ipc.WithCodec(ipc.Raw))   // answers so after the last one
)

const flowItem = 100

func numberedItem(n int) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, flowItem-8), uint64(n))
}

func isNumbered(b []byte, n int) bool {
	return len(b) == flowItem && binary.LittleEndian.Uint64(b[flowItem-8:]) == uint64(n)
}

// proceed is closed when a handler goes on after the moment.
func (s *stage) proceed() <-chan struct{} {
	if s.how == "stop" {
		return s.gate
	}
	return nil
}

func (s *stage) handleStreams(r worker.Registrar) {
	worker.HandleServerStream(r, outflow, func(ctx context.Context, _ []byte, out *ipc.Sender[[]byte]) error {
		for n := 0; !isOpen(s.gate) || s.how != "stop"; n++ {
			if err := out.Send(ctx, numberedItem(n)); err != nil {
				return err
			}
			if n == 20 {
				s.note("sends", "x")
			}
		}
		return nil
	})
	worker.HandleClientStream(r, inflow, func(ctx context.Context, in *ipc.Receiver[[]byte]) ([]byte, error) {
		if s.when == "stream up blocked" {
			select {
			case <-s.proceed():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return countItems(ctx, in)
	})
	worker.HandleBidiStream(r, halved, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		n, err := countItems(ctx, in)
		if err != nil {
			return err
		}
		s.note("stays", "x")
		select {
		case <-s.proceed():
			return out.Send(ctx, n)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func countItems(ctx context.Context, in *ipc.Receiver[[]byte]) ([]byte, error) {
	n := 0
	for b, err := range in.All(ctx) {
		if err != nil {
			return nil, err
		}
		if !isNumbered(b, n) {
			return nil, fmt.Errorf("item %d is another one", n)
		}
		n++
	}
	return numberedItem(n), nil
}

// stream returns what opens a stream and uses it to its end, which is the end of a call, and
// what waits until the moment is there.
func (s *stage) stream(w ipc.Caller) (call func(int) error, reached func(pid int)) {
	ctx := context.Background()
	var items atomic.Int64
	down := func(int) error {
		n := 0
		for b, err := range outflow.Stream(ctx, w, nil) {
			if err != nil {
				return err
			}
			if !isNumbered(b, n) {
				return errWrong
			}
			n++
			items.Add(1)
			if s.when == "stream down blocked" && n == 10 {
				<-s.gate // it has sent more, which is read then
			}
		}
		return nil
	}
	up := func(int) error {
		st, err := inflow.Open(ctx, w)
		if err != nil {
			return err
		}
		defer st.Close()
		n := 0
		for ; err == nil && !(isOpen(s.gate) && s.how == "stop"); n++ {
			if err = st.Send(ctx, numberedItem(n)); err == nil {
				items.Add(1)
			}
		}
		got, end := st.CloseAndReceive(ctx)
		if err != nil && outcomeOf(end) != outcomeOf(err) {
			return fmt.Errorf("the sender gets %q, and the receiver %q", outcomeOf(err), outcomeOf(end))
		}
		return unless(isNumbered(got, n), end)
	}
	half := func(int) error {
		st, err := halved.Open(ctx, w)
		for n := range 3 {
			if err == nil {
				err = st.Send(ctx, numberedItem(n))
			}
		}
		if err == nil {
			err = st.CloseSend(ctx)
		}
		if err != nil {
			return err
		}
		got, err := st.Receive(ctx)
		right := isNumbered(got, 3)
		if err == nil {
			if _, err = st.Receive(ctx); err == io.EOF {
				err = nil
			}
		}
		return unless(right, err)
	}
	many := func(int) {
		for items.Load() < 1000 {
			time.Sleep(time.Millisecond)
		}
	}
	switch s.when {
	case "stream down":
		return down, many
	case "stream up":
		return up, many
	case "stream down blocked":
		return down, func(pid int) {
			s.await("sends")
			quiet(pid)
		}
	case "stream up blocked":
		return up, func(pid int) {
			for before := int64(-1); before != items.Load(); time.Sleep(20 * time.Millisecond) {
				before = items.Load()
			}
			quiet(pid)
		}
	default:
		return half, func(int) { s.await("stays") }
	}
}

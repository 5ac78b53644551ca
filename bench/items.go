package main

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// wanted asks for items for so many nanoseconds or, if Most is not 0, for so many items at most.
// Size is theirs where it is not that of their type.
type wanted struct{ For, Most, Size int64 }

// record is an item of ten fields, as a log might have.
type record struct {
	Number  uint64  `cbor:"1,keyasint"`
	Placed  int64   `cbor:"2,keyasint"`
	Level   int     `cbor:"3,keyasint"`
	Service string  `cbor:"4,keyasint"`
	Host    string  `cbor:"5,keyasint"`
	Path    string  `cbor:"6,keyasint"`
	Status  int     `cbor:"7,keyasint"`
	Took    float64 `cbor:"8,keyasint"`
	Retried bool    `cbor:"9,keyasint"`
	Check   uint64  `cbor:"10,keyasint"`
}

func newRecord() record {
	return record{Placed: 1_700_000_000_123, Level: 4, Service: "checkout", Host: "node-17.example.org", Path: "/v1/orders/confirm", Status: 201, Took: 0.00317}
}

// The streams of the workers.
var (
	ticksDown   = ipc.NewServerStream[wanted, tick]("bench.ticks.down", ipc.WithCodec(ipc.Fixed))
	ticksUp     = ipc.NewClientStream[tick, tick]("bench.ticks.up", ipc.WithCodec(ipc.Fixed))
	recordsDown = ipc.NewServerStream[wanted, record]("bench.records.down", ipc.WithCodec(ipc.CBOR))
	bytesDown   = ipc.NewServerStream[[]byte, []byte]("bench.bytes.down", ipc.WithCodec(ipc.Raw)) // asks for them with Fixed
	bytesOnce   = ipc.NewServerStream[[]byte, []byte]("bench.bytes.once", ipc.WithCodec(ipc.Raw)) // has its request as its one item
	// bytesEchoed returns each item.
	bytesEchoed = ipc.NewBidiStream[[]byte, []byte]("bench.bytes.echoed", ipc.WithCodec(ipc.Raw))
)

func registerStreams(s *worker.Server) {
	worker.HandleServerStream(s, ticksDown, func(ctx context.Context, w wanted, out *ipc.Sender[tick]) error {
		return w.send(tickSender(ctx, out))
	})
	worker.HandleClientStream(s, ticksUp, func(ctx context.Context, in *ipc.Receiver[tick]) (tick, error) {
		n, err := suite.ReceiveItems(tickReceiver(ctx, in))
		return tick{Seq: n}, err
	})
	worker.HandleServerStream(s, recordsDown, func(ctx context.Context, w wanted, out *ipc.Sender[record]) error {
		item := newRecord()
		return w.send(func(number, check uint64) error {
			item.Number, item.Check = number, check
			return out.Send(ctx, item)
		})
	})
	worker.HandleServerStream(s, bytesDown, func(ctx context.Context, req []byte, out *ipc.Sender[[]byte]) error {
		w, err := ipc.Unmarshal[wanted](ipc.Fixed, req)
		if err != nil {
			return err
		}
		return w.send(byteSender(ctx, out, int(w.Size)))
	})
	worker.HandleServerStream(s, bytesOnce, func(ctx context.Context, req []byte, out *ipc.Sender[[]byte]) error {
		return out.Send(ctx, req)
	})
	worker.HandleBidiStream(s, bytesEchoed, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		for item, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if err := out.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	})
	worker.Handle(s, streamHost, hostStreams)
}

// send sends the items.
func (w wanted) send(send func(number, check uint64) error) error {
	if w.Most == 0 {
		return suite.SendItems(time.Duration(w.For), send)
	}
	n := uint64(w.Most)
	for i := range n {
		if err := send(i, ^i); err != nil {
			return err
		}
	}
	return send(n, n)
}

func tickSender(ctx context.Context, out *ipc.Sender[tick]) func(number, check uint64) error {
	item := newTick()
	return func(number, check uint64) error {
		item.Seq, item.Check = number, check
		return out.Send(ctx, item)
	}
}

func tickReceiver(ctx context.Context, in *ipc.Receiver[tick]) func() (number, check uint64, err error) {
	return func() (number, check uint64, err error) {
		item, err := in.Receive(ctx)
		return item.Seq, item.Check, err
	}
}

func byteSender(ctx context.Context, out *ipc.Sender[[]byte], size int) func(number, check uint64) error {
	item := make([]byte, size)
	return func(number, check uint64) error {
		suite.PutNumbers(item, number, check)
		return out.Send(ctx, item)
	}
}

func byteReceiver(ctx context.Context, in *ipc.Receiver[[]byte], size int) func() (number, check uint64, err error) {
	return func() (number, check uint64, err error) {
		item, err := in.Receive(ctx)
		if err != nil {
			return 0, 0, err
		}
		return suite.Numbers(item, size)
	}
}

// openBytes opens a stream of bytes from the worker.
func openBytes(ctx context.Context, w ipc.Caller, asked wanted) (*ipc.ServerStreamCall[[]byte], error) {
	req, err := ipc.Marshal(ipc.Fixed, nil, asked)
	if err != nil {
		return nil, err
	}
	return bytesDown.Open(ctx, w, req)
}

// A passing passes items of size bytes for about d, and returns how many.
type passing func(ctx context.Context, w *suite.Worker, size int, d time.Duration) (n uint64, err error)

func passTicksDown(ctx context.Context, w *suite.Worker, _ int, d time.Duration) (uint64, error) {
	st, err := ticksDown.Open(ctx, w, wanted{For: int64(d)})
	if err != nil {
		return 0, err
	}
	defer st.Close()
	return suite.ReceiveItems(tickReceiver(ctx, &st.Receiver))
}

func passTicksUp(ctx context.Context, w *suite.Worker, _ int, d time.Duration) (uint64, error) {
	st, err := ticksUp.Open(ctx, w)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	if err := suite.SendItems(d, tickSender(ctx, &st.Sender)); err != nil {
		return 0, err
	}
	n, err := st.CloseAndReceive(ctx)
	return n.Seq, err
}

func passRecordsDown(ctx context.Context, w *suite.Worker, _ int, d time.Duration) (uint64, error) {
	st, err := recordsDown.Open(ctx, w, wanted{For: int64(d)})
	if err != nil {
		return 0, err
	}
	defer st.Close()
	return suite.ReceiveItems(func() (number, check uint64, err error) {
		item, err := st.Receive(ctx)
		return item.Number, item.Check, err
	})
}

func passBytesDown(ctx context.Context, w *suite.Worker, size int, d time.Duration) (uint64, error) {
	st, err := openBytes(ctx, w, wanted{For: int64(d), Size: int64(size)})
	if err != nil {
		return 0, err
	}
	defer st.Close()
	return suite.ReceiveItems(byteReceiver(ctx, &st.Receiver, size))
}

// passBytesEchoed counts items that have come back.
func passBytesEchoed(ctx context.Context, w *suite.Worker, size int, d time.Duration) (uint64, error) {
	st, err := bytesEchoed.Open(ctx, w)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	sent := make(chan error, 1)
	go func() {
		err := suite.SendItems(d, byteSender(ctx, &st.Sender, size))
		if err == nil {
			err = st.CloseSend(ctx)
		}
		sent <- err
	}()
	n, err := suite.ReceiveItems(byteReceiver(ctx, &st.Receiver, size))
	if err != nil {
		return n, err // which ends the sending, by Close
	}
	return n, <-sent
}

// measured passes items for d, after a warm-up, and counts them.
func (pass passing) measured(ctx context.Context, w *suite.Worker, size int, d time.Duration) (measure.Sample, error) {
	if _, err := pass(ctx, w, size, d/10); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) error {
		start := measure.Now()
		n, err := pass(ctx, w, size, d)
		s.Busy = measure.Now() - start
		s.Ops, s.Bytes = int64(n), int64(n)*int64(size)
		return err
	})
}

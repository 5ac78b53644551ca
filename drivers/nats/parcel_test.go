package natsipc_test

import (
	"context"
	"os"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// parcel is a message with buffers.
type parcel struct {
	Name string
	Some []ipc.Buffer
}

var (
	parcels     = ipc.NewMethod[parcel, parcel]("test.parcels")                              // turns the buffers' order round, and adds one
	bareBuffer  = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("test.bare", ipc.WithCodec(ipc.Raw)) // a copy
	fileCall    = ipc.NewMethod[ipc.File, int]("test.file")
	fileBack    = ipc.NewMethod[int, ipc.File]("test.file_back")
	parcelTour  = ipc.NewBidiStream[parcel, parcel]("test.parcel_tour")
	parcelsDown = ipc.NewServerStream[parcel, parcel]("test.parcels_down") // the request, once for each of its buffers
	parcelsUp   = ipc.NewClientStream[parcel, parcel]("test.parcels_up")   // the last buffer of each
)

func handleBuffers(r worker.Registrar) {
	turned := func(ctx context.Context, p parcel) (parcel, error) {
		back := parcel{Name: p.Name + "!"}
		for i := range p.Some {
			back.Some = append(back.Some, p.Some[len(p.Some)-1-i])
		}
		own, err := worker.Alloc(ctx, 5)
		if err != nil {
			return back, err
		}
		copy(own.Bytes(), "added")
		back.Some = append(back.Some, own)
		return back, nil
	}
	worker.Handle(r, parcels, turned)
	worker.Handle(r, bareBuffer, func(ctx context.Context, b ipc.Buffer) (ipc.Buffer, error) {
		back, err := worker.Alloc(ctx, b.Len())
		if err == nil {
			copy(back.Bytes(), b.Bytes())
		}
		return back, err
	})
	worker.Handle(r, fileCall, func(context.Context, ipc.File) (int, error) { return 1, nil })
	worker.Handle(r, fileBack, func(context.Context, int) (ipc.File, error) {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return ipc.File{}, err
		}
		return ipc.NewFile(f), nil
	})
	worker.HandleBidiStream(r, parcelTour, func(ctx context.Context, in *ipc.Receiver[parcel], out *ipc.Sender[parcel]) error {
		for p, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			back, err := turned(ctx, p)
			if err == nil {
				err = out.Send(ctx, back)
			}
			for _, b := range back.Some {
				b.Release()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleServerStream(r, parcelsDown, func(ctx context.Context, p parcel, out *ipc.Sender[parcel]) error {
		for range p.Some {
			if err := out.Send(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleClientStream(r, parcelsUp, func(ctx context.Context, in *ipc.Receiver[parcel]) (last parcel, err error) {
		for p, err := range in.All(ctx) {
			if err != nil {
				return last, err
			}
			last.Name += p.Name
			for i, b := range p.Some {
				if i == len(p.Some)-1 {
					last.Some = append(last.Some, b)
				} else {
					b.Release()
				}
			}
		}
		return last, nil
	})
}

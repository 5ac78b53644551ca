package main

import (
	"context"

	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What the workers do.
var (
	// echoRaw returns the bytes that it gets.
	echoRaw = ipc.NewMethod[[]byte, []byte]("bench.echo", ipc.WithCodec(ipc.Raw))
	// echoInPlace does so in place, and echoFixed with a struct.
	echoInPlace = ipc.NewMethod[[]byte, []byte]("bench.inplace", ipc.WithCodec(ipc.Raw))
	echoFixed   = ipc.NewMethod[tick, tick]("bench.tick", ipc.WithCodec(ipc.Fixed))
	// echoTick returns the tick that it gets, in the codec of the link.
	echoTick = ipc.NewMethod[tick, tick]("bench.tick.encoded")
	// echoOrder returns the order that it gets, in the codec of the link.
	echoOrder = ipc.NewMethod[order, order]("bench.order")
	// busy computes until its context ends.
	busy = ipc.NewMethod[struct{}, struct{}]("bench.busy")
)

// tick is a struct that crosses as its memory, of 64 bytes.
type tick struct {
	Seq   uint64
	Price [6]float64
	Check uint64
}

const tickSize = 64

// newTick returns one that takes as many bytes in CBOR as most that are sent.
func newTick() tick {
	t := tick{Price: [6]float64{101.01, 102.02, 103.03, 104.04, 105.05, 106.06}}
	t.number(1 << 16)
	return t
}

func (t *tick) number(seq uint64) { t.Seq, t.Check = seq, ^seq }

// order is what a service might exchange: strings, numbers, a list of structs.
// It takes about 650 bytes as JSON.
type order struct {
	ID       uint64            `json:"id" cbor:"1,keyasint"`
	Customer string            `json:"customer" cbor:"2,keyasint"`
	Email    string            `json:"email" cbor:"3,keyasint"`
	Placed   int64             `json:"placed" cbor:"4,keyasint"`
	Paid     bool              `json:"paid" cbor:"5,keyasint"`
	Items    []item            `json:"items" cbor:"6,keyasint"`
	Ship     address           `json:"ship" cbor:"7,keyasint"`
	Tags     []string          `json:"tags" cbor:"8,keyasint"`
	Notes    map[string]string `json:"notes" cbor:"9,keyasint"`
	Total    float64           `json:"total" cbor:"10,keyasint"`
}

type item struct {
	SKU      string  `json:"sku" cbor:"1,keyasint"`
	Name     string  `json:"name" cbor:"2,keyasint"`
	Quantity int     `json:"quantity" cbor:"3,keyasint"`
	Price    float64 `json:"price" cbor:"4,keyasint"`
}

type address struct {
	Street  string `json:"street" cbor:"1,keyasint"`
	City    string `json:"city" cbor:"2,keyasint"`
	Zip     string `json:"zip" cbor:"3,keyasint"`
	Country string `json:"country" cbor:"4,keyasint"`
}

func newOrder() order {
	return order{
		Customer: "Ada Lovelace", Email: "ada@example.org", Placed: 1_700_000_000_123, Paid: true,
		Items: []item{
			{"KB-104-DE", "Keyboard, 104 keys, German layout", 1, 89.90},
			{"MS-003", "Mouse, wireless", 2, 24.50},
			{"CB-USBC-2M", "Cable USB-C, 2 m", 3, 9.99},
			{"ST-17", "Stand for laptops up to 17 inches", 1, 39.00},
		},
		Ship:  address{"12 St James's Square", "London", "SW1Y 4LB", "GB"},
		Tags:  []string{"priority", "gift", "returning-customer"},
		Notes: map[string]string{"delivery": "leave with the neighbour", "invoice": "by mail"},
		Total: 207.87,
	}
}

// register adds the handlers of a worker.
func register(s *worker.Server) {
	worker.Handle(s, echoRaw, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.HandleInPlace(s, echoInPlace, func(_ context.Context, call worker.InPlace) error {
		call.Reply(call.Request())
		return nil
	})
	worker.Handle(s, echoFixed, func(_ context.Context, t tick) (tick, error) { return t, nil })
	worker.Handle(s, echoTick, func(_ context.Context, t tick) (tick, error) { return t, nil })
	worker.Handle(s, echoOrder, func(_ context.Context, o order) (order, error) { return o, nil })
	worker.Handle(s, busy, func(ctx context.Context, _ struct{}) (struct{}, error) {
		for ctx.Err() == nil {
			compute()
		}
		return struct{}{}, nil
	})
	worker.Handle(s, idleHost, hostIdle)
	registerStreams(s)
	registerBuffers(s)
	registerPipeline(s)
	registerServices(s)
	registerTopics(s)
	rings.Handle(s)
	registerEnds(s)
}

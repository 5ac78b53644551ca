// Package contract is what host and worker share: the methods, their types, and
// the errors that keep their identity across the processes.
package contract

import (
	"errors"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

var (
	// Quote returns what an order costs.
	Quote = ipc.NewMethod[Order, Price]("shop.quote")
	// Inspect looks at the goods for a while and returns how many there are.
	Inspect = ipc.NewMethod[Inspection, int]("shop.inspect")
)

// ErrUnknownItem is for items that the shop does not have.
var ErrUnknownItem = errors.New("unknown item")

func init() { ipc.RegisterError("shop.ErrUnknownItem", ErrUnknownItem) }

// Order is a request of Quote.
type Order struct {
	Item     string
	Quantity int
}

// Price is the response of Quote.
type Price struct {
	Cents    int
	Currency string
}

// Inspection is a request of Inspect.
type Inspection struct {
	Item  string
	Takes time.Duration
}

// Shop is the user data that the host passes to the worker when it starts it.
type Shop struct {
	Currency string
	Items    map[string]Item
}

// Item is what the shop sells.
type Item struct{ Cents, Stock int }

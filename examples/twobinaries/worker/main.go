// Worker is a program of its own that answers a host. The host starts it.
package main

import (
	"context"
	"fmt"
	"log"
	"strconv"
	"time"

	// The host chooses the driver, so both are linked in.
	_ "github.com/tandemipc/tandem/drivers/shm"
	_ "github.com/tandemipc/tandem/drivers/socket"

	"github.com/tandemipc/tandem/examples/twobinaries/contract"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	log.SetFlags(0)
	s := worker.NewServer()
	if startup := worker.Startup(); startup != nil {
		var shop shop
		if err := startup.Data(&shop.Shop); err != nil {
			log.Fatal(err)
		}
		worker.Handle(s, contract.Quote, shop.quote)
		worker.Handle(s, contract.Inspect, shop.inspect)
	}
	// Without a host, Serve says what to do.
	if err := s.Serve(context.Background()); err != nil {
		log.Fatal(err)
	}
}

type shop struct{ contract.Shop }

func (s *shop) quote(_ context.Context, o contract.Order) (contract.Price, error) {
	item, err := s.find(o.Item)
	if err != nil {
		return contract.Price{}, err
	}
	if o.Quantity < 1 || o.Quantity > item.Stock {
		return contract.Price{}, &ipc.Error{
			Code:    ipc.CodeOutOfRange,
			Message: fmt.Sprintf("%d of %q ordered, 1 to %d can be", o.Quantity, o.Item, item.Stock),
			Details: map[string]string{"stock": strconv.Itoa(item.Stock)},
		}
	}
	return contract.Price{Cents: o.Quantity * item.Cents, Currency: s.Currency}, nil
}

func (s *shop) inspect(ctx context.Context, i contract.Inspection) (int, error) {
	item, err := s.find(i.Item)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(i.Takes):
		return item.Stock, nil
	case <-ctx.Done(): // the caller has given up: so does the handler
		return 0, ctx.Err()
	}
}

func (s *shop) find(name string) (contract.Item, error) {
	item, ok := s.Items[name]
	if !ok {
		return item, ipc.Errorf(ipc.CodeNotFound, "%w: %q", contract.ErrUnknownItem, name)
	}
	return item, nil
}

// Server serves every process of this user that dials its path:
//
//	go run ./examples/service/server /tmp/text
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/examples/service/contract"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := worker.NewServer()
	worker.Handle(s, contract.Count, func(_ context.Context, text string) (int, error) {
		return len(strings.Fields(text)), nil
	})
	l, err := shm.Listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Print("listening at ", l.Addr())
	if err := s.ServeListener(ctx, l); err != nil {
		log.Fatal(err)
	}
}

// Client calls the server at a path:
//
//	go run ./examples/service/client /tmp/text 'to be or not to be'
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/examples/service/contract"
	"github.com/tandemipc/tandem/worker"
)

func main() {
	ctx := context.Background()
	c, err := worker.Dial(ctx, os.Args[1], shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	n, err := contract.Count.Call(ctx, c, os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "words")
}

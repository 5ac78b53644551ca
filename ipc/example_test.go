package ipc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/tandemipc/tandem/ipc"
)

// ErrQueueFull is declared and registered in the package that host and worker
// both import.
var ErrQueueFull = errors.New("queue is full")

func init() { ipc.RegisterError("example.queue_full", ErrQueueFull) }

// CountRequest and CountResult are what crosses.
type CountRequest struct{ Text string }
type CountResult struct{ Words int }

// Count is the contract between host and worker.
var Count = ipc.NewMethod[CountRequest, CountResult]("text.count")

// Forget makes the worker forget a text.
var Forget = ipc.NewMethod[CountRequest, struct{}]("text.forget")

// client stands for a worker.Client, or a pool of them.
type client struct{}

func (client) Codec() ipc.Codec { return ipc.CBOR }
func (client) Invoke(_ context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	var req CountRequest
	if err := ipc.CBOR.Decode(request, &req); err != nil || call.OneWay {
		return nil, err
	}
	return ipc.CBOR.Append(memory, CountResult{Words: len(strings.Fields(req.Text))})
}

// A method is declared once, for both sides, and called through any Caller.
func ExampleNewMethod() {
	var w ipc.Caller = client{}
	res, err := Count.Call(context.Background(), w, CountRequest{Text: "to be there"})
	fmt.Println(res.Words, err)
	// Output: 3 <nil>
}

// A Future is a call in flight, which nobody has to wait for yet.
func ExampleFuture() {
	var w ipc.Caller = client{}
	ctx := context.Background()
	f, err := Count.Go(ctx, w, CountRequest{Text: "while this is counted"})
	if err != nil {
		log.Fatal(err) // it has not been sent
	}
	defer f.Abandon() // gives the call up, if it is not over by then

	fmt.Println("other work is done")
	res, err := f.Wait(context.Background())
	fmt.Println(res.Words, err)
	// Output:
	// other work is done
	// 4 <nil>
}

// What a batch gathers is sent together, and answered together.
func ExampleBatch() {
	var w ipc.Caller = client{}
	ctx := context.Background()
	texts := []string{"one", "two words", "three more words"}
	counts := make([]*ipc.Future[CountResult], len(texts))
	err := ipc.Batch(ctx, w, func(c ipc.Caller) (err error) {
		for i, text := range texts {
			if counts[i], err = Count.Go(ctx, c, CountRequest{text}); err != nil {
				return err
			}
			if err := Forget.Notify(ctx, c, CountRequest{text}); err != nil { // which has no answer
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range counts {
		res, err := f.Wait(context.Background())
		fmt.Println(res.Words, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

// A sentinel that both sides have registered is found by errors.Is on the
// caller's side. What the handler returned is encoded here as a worker would.
func ExampleRegisterError() {
	crossed := ipc.AppendError(nil, fmt.Errorf("queue %q: %w", "in", ErrQueueFull))

	err := ipc.ParseError(crossed)
	fmt.Println(err)
	fmt.Println(errors.Is(err, ErrQueueFull))
	// Output:
	// unknown: queue "in": queue is full
	// true
}

// A handler chooses the code of its error, and adds details for programs.
func ExampleError() {
	handler := func(page int) error {
		err := ipc.Errorf(ipc.CodeOutOfRange, "there is no page %d", page)
		err.Details = map[string]string{"field": "page"}
		return err
	}
	err := handler(7)

	var e *ipc.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, e.Details["field"])
	}
	fmt.Println(err)
	// Output:
	// out_of_range page
	// out_of_range: there is no page 7
}

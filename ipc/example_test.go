package ipc_test

import (
	"context"
	"errors"
	"fmt"

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

// client stands for a worker.Client, or a pool of them.
type client struct{}

func (client) Codec() ipc.Codec { return ipc.CBOR }
func (client) Invoke(_ context.Context, call ipc.Invocation) ([]byte, error) {
	return ipc.CBOR.Append(call.Response, CountResult{Words: 3})
}

// A method is declared once, for both sides, and called through any Caller.
func ExampleNewMethod() {
	var w ipc.Caller = client{}
	res, err := Count.Call(context.Background(), w, CountRequest{Text: "to be there"})
	fmt.Println(res.Words, err)
	// Output: 3 <nil>
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

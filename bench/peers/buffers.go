package main

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// answerBuffer answers a buffer with another one, which has the same ends and nothing else of it:
// what iceoryx2 does with loaned samples.
var answerBuffer = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("peers.buffer", ipc.WithCodec(ipc.Raw))

func answerWithBuffer(ctx context.Context, request ipc.Buffer) (ipc.Buffer, error) {
	number, check, err := suite.Numbers(request.Bytes(), request.Len())
	if err != nil {
		return ipc.Buffer{}, err
	}
	response, err := worker.Alloc(ctx, request.Len())
	if err == nil {
		suite.PutNumbers(response.Bytes(), number, check)
	}
	return response, err
}

// bufferCall makes a buffer, writes its ends, sends it, and reads the ends of the answer.
type bufferCall struct {
	to            ipc.Caller
	arena         *ipc.Arena
	size          int
	seq           uint64
	number, check uint64
}

func (c *bufferCall) Prepare(seq uint64) { c.seq = seq }

func (c *bufferCall) Do(ctx context.Context) error {
	request, err := c.arena.Alloc(ctx, c.size)
	if err != nil {
		return err
	}
	suite.PutNumbers(request.Bytes(), c.seq, ^c.seq)
	response, err := answerBuffer.Call(ctx, c.to, request)
	request.Release()
	if err != nil {
		return err
	}
	c.number, c.check, err = suite.Numbers(response.Bytes(), c.size)
	response.Release()
	return err
}

func (c *bufferCall) Check() error {
	if c.number != c.seq || c.check != ^c.seq {
		return fmt.Errorf("%w: buffer %d came back as %d, with the check %#x", suite.ErrGarbled, c.seq, c.number, c.check)
	}
	return nil
}

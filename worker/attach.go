package worker

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// Attach takes over the worker that ref names, which another process has started and left.
// [socket.Attach] explains the errors and connect. The client works like that of a worker
// that was started here: Close ends the worker, and Channel().Detach leaves it to the
// next host.
//
// Codec, largest message, window and timeouts are those that the worker was started with.
// [WithCallTimeout] and [WithGrace] change the timeouts of this host. ctx and
// [WithStartTimeout] bound the time until the worker is ready. Options for starting
// a process, such as [WithRestart] and [WithRetry], are an error: this process does not
// know how to start the worker.
func Attach(ctx context.Context, ref socket.Ref, connect socket.Connect, opts ...Option) (*Client[*socket.Channel], error) {
	codec, ok := ipc.FindCodec(ref.Codec)
	if !ok {
		return nil, fmt.Errorf("%w: codec %q is not known here", socket.ErrBadRef, ref.Codec)
	}
	o := (&Settings{
		Codec: codec, Timeouts: ref.Timeouts, Logger: slog.Default(),
		agreedTimeout: ref.Timeouts.Call, maxMessage: ref.MaxMessage, window: ref.Window, resume: ref.Resume,
	}).apply(opts)
	err := refuseOptions("attach: option %s is for starting a worker", []givenOption{
		{"WithCodec", o.Codec != codec},
		{"WithMaxMessage", o.maxMessage != ref.MaxMessage},
		{"WithWindow", o.window != ref.Window},
		{"WithHostTimeout", o.Timeouts.Host != ref.Timeouts.Host},
		{"WithData", o.hasData},
		{"WithRestart or WithRetry", o.Restart != nil},
		{"WithResume", o.resume != ref.Resume},
		{"WithOutput", o.output != nil},
		{"WithReconnect", o.reconnect != nil},
		{"WithPeerCheck", o.peerCheck != nil},
		{"WithChecksum", o.checksum != nil},
		{"WithMaxMemory, WithMaxCPU, WithMaxFiles or WithoutCoreDumps", o.resources != drivers.Resources{}},
	})
	if err != nil {
		return nil, err
	}
	if timeout := o.Timeouts.Start; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = wait.Timeout(ctx, timeout, &ipc.TimeoutError{What: fmt.Sprintf("attaching to worker %s (pid %d)", ref.Program, ref.PID), After: timeout})
		defer cancel()
	}
	channel, err := socket.Attach(ctx, ref, connect, o.Logger)
	if err != nil {
		return nil, err
	}
	c := newClient[*socket.Channel](o, socket.Driver{}.Capabilities())
	c.starts = 1
	c.run(c.newIncarnation(channel))
	go c.supervise()
	return c, nil
}

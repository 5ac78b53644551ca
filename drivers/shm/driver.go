package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

// Name is the driver's name.
const Name = "shm"

// DefaultRingSize is the size of each ring, in bytes, where none is given.
const DefaultRingSize = 1 << 20

// Wait says how a side waits for the other.
type Wait = ring.Wait

// The ways of waiting.
const (
	// Adaptive spins for as long as that has lately been worth it, and then
	// parks in the kernel. It is the default, and an idle link costs nothing.
	Adaptive = ring.WaitAdaptive
	// Spin never parks: a caller spins while its call is pending, and the
	// worker spins all the time. It burns a core, and suits machines with a
	// core to spare for each side.
	Spin = ring.WaitSpin
	// Park never spins. It suits machines with more busy links than cores.
	Park = ring.WaitPark
)

// Driver links host and worker through shared memory. It cannot reconnect or
// detach: its clients do not have these methods. The zero value is useful.
type Driver struct {
	// RingSize is the size in bytes of each of the two rings. It is rounded up
	// to a power of two; 0 means DefaultRingSize, and ring.MinSize to ring.MaxSize
	// is allowed. Messages may be larger than the ring. A larger ring holds more
	// messages in flight, and one that fits the processor's cache is faster.
	RingSize int
	// Wait says how both sides wait for each other.
	Wait Wait
	// Prefault maps all pages at the start, so that no call meets a page fault.
	Prefault bool
}

// workerOptions is what the worker has to know of the Driver.
type workerOptions struct {
	RingSize int  `cbor:"1,keyasint"`
	Wait     Wait `cbor:"2,keyasint"`
	Prefault bool `cbor:"3,keyasint"`
}

func init() { drivers.Register(Driver{}) }

var (
	_ drivers.Driver[*Channel] = Driver{}
	_ drivers.Acceptor         = Driver{}
)

// Name returns "shm".
func (Driver) Name() string { return Name }

// Capabilities returns SharedMemory only.
func (Driver) Capabilities() drivers.Capabilities { return drivers.Capabilities{SharedMemory: true} }

// complete returns d with its sizes completed, or says which option is out of range.
func (d Driver) complete() (Driver, error) {
	switch {
	case d.RingSize == 0:
		d.RingSize = DefaultRingSize
	case d.RingSize < ring.MinSize || d.RingSize > ring.MaxSize:
		return d, fmt.Errorf("tandem: shm: Driver.RingSize is %d bytes, allowed are %d to %d", d.RingSize, ring.MinSize, ring.MaxSize)
	default:
		d.RingSize = 1 << bits.Len(uint(d.RingSize-1))
	}
	if d.Wait != Adaptive && d.Wait != Spin && d.Wait != Park {
		return d, fmt.Errorf("tandem: shm: Driver.Wait is %d, use shm.Adaptive, shm.Spin or shm.Park", d.Wait)
	}
	return d, nil
}

// supported returns an error unless the system has what the driver needs and is ready to
// give some of it.
func supported() error {
	err := ring.Supported()
	switch {
	case errors.Is(err, ring.ErrUnsupported):
		return fmt.Errorf("%w: shm: %w", ipc.ErrUnsupported, err)
	case err != nil:
		return process.Shortage(fmt.Errorf("tandem: shm: %w", err))
	}
	return nil
}

// Spawn starts a worker and links it. Package worker calls it. A field that is
// out of range is an error before anything is started. Spawn returns when both sides have
// mapped both rings and have told each other so.
func (d Driver) Spawn(ctx context.Context, cmd *drivers.Command) (*Channel, error) {
	d, err := d.complete()
	if err != nil {
		return nil, err
	}
	if err := supported(); err != nil {
		return nil, err
	}
	if err := process.CompleteLimits(Name, &cmd.Startup.MaxMessage, &cmd.Startup.Window); err != nil {
		return nil, err
	}
	cmd.Startup.Driver = Name
	if cmd.Startup.DriverData, err = ipc.CBOR.Append(nil, workerOptions(d)); err != nil {
		return nil, fmt.Errorf("tandem: shm: encode options: %w", err)
	}
	local := process.Hello(drivers.Hello{Codec: cmd.Startup.Codec, MaxMessage: cmd.Startup.MaxMessage, Window: cmd.Startup.Window}, Name, ring.LayoutVersion)
	var l *link
	p, _, err := process.Spawn(ctx, cmd, process.Options{}, func(control *net.UnixConn) (err error) {
		l, err = d.link(control, local)
		return err
	})
	if err != nil {
		if l != nil { // the context ended just after the handshake
			l.Close()
		}
		return nil, err
	}
	l.credentials = process.Credentials(cmd.Cmd.SysProcAttr)
	l.watch()
	return &Channel{process: p, link: l}, nil
}

// Channel is a host's connection to one worker.
type Channel struct {
	process *process.Process
	link    *link
	shared  atomic.Bool // the link has been handed out
}

// Process returns the worker's process.
func (c *Channel) Process() drivers.Process { return c.process }

// Links calls fn with the channel's only link. It panics if fn is nil, and if it is
// called twice.
func (c *Channel) Links(fn func(drivers.Link)) {
	switch {
	case fn == nil:
		panic("tandem: shm: Channel.Links is called with a nil function")
	case c.shared.Swap(true):
		panic("tandem: shm: Channel.Links is called twice")
	}
	fn(c.link)
}

// Close ends the link. Its memory goes when whoever was given the link closes it,
// since only they know that nobody reads any more.
func (c *Channel) Close() error {
	if c.shared.Load() {
		c.link.Shutdown()
		return nil
	}
	return c.link.Close()
}

// Open takes the worker's end of the control socket. It logs nothing.
// [worker.Server.Serve] calls it.
func (d Driver) Open(s *drivers.StartupData, _ *slog.Logger) (drivers.Endpoint, error) {
	var o workerOptions
	if err := ipc.CBOR.Decode(s.DriverData, &o); err != nil {
		return nil, fmt.Errorf("tandem: shm: decode the host's options: %w", err)
	}
	d, err := Driver(o).complete()
	if err == nil {
		err = supported()
	}
	if err != nil {
		return nil, err
	}
	control, err := process.Control(s)
	if err != nil {
		return nil, err
	}
	return &endpoint{driver: d, control: control}, nil
}

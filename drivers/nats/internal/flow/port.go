package flow

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/ipc"
)

// Config says how much the flows of a port take. Zero values stand for the defaults.
type Config struct {
	// Window is how many bytes of frames a flow takes that nobody has read, at most. It begins
	// with [Initial], and grows while it is read. The default is [DefaultWindow].
	Window int64
	// Budget is how much larger than [Initial] all windows of a port may be together. The default is 16 windows.
	Budget int64
	// Flows is how many flows a port has at most. The default is 1024.
	Flows int
	// MaxItem is the size of the largest item. The default is 64 MiB.
	MaxItem int
	// Beat is how often each side of a flow says that it lives. A side that has heard nothing
	// for Misses beats gives the flow up. The default is 5 s.
	Beat time.Duration
}

// DefaultWindow is how many bytes of frames a flow takes that nobody has read, where nothing else is said.
const DefaultWindow = 1 << 20

// Misses is how many beats a side misses before it takes its peer for dead: that is found within
// Misses+1 beats.
const Misses = 3

// Bus is what a port needs to send. A [*nats.Conn] is one.
type Bus interface {
	// Publish sends data, which it has copied when it returns.
	Publish(subject string, data []byte) error
	// MaxPayload is the size of the largest message.
	MaxPayload() int64
}

// Port is where the frames of flows arrive, on one side of a connection. It is safe for concurrent
// use.
type Port struct {
	bus    Bus
	base   string // of the subjects of its flows
	config Config
	sub    *nats.Subscription // nil in tests
	budget budget

	mu     sync.Mutex
	flows  map[string]*Flow
	closed error // why it takes no further flows
}

// NewPort returns a port whose flows have subjects that begin with base. Frames that come have to be
// given to Deliver.
func NewPort(bus Bus, base string, c Config) *Port {
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Budget == 0 {
		c.Budget = 16 * c.Window
	}
	if c.Flows == 0 {
		c.Flows = 1024
	}
	if c.MaxItem == 0 {
		c.MaxItem = 64 << 20
	}
	if c.Beat == 0 {
		c.Beat = 5 * time.Second
	}
	c.Window, c.MaxItem = max(c.Window, Initial), min(c.MaxItem, int(attached)-1)
	p := &Port{bus: bus, base: base, config: c, flows: make(map[string]*Flow)}
	p.budget.size = c.Budget
	return p
}

// Listen returns a port with a subscription of its own for all that comes to its flows.
func Listen(nc *nats.Conn, base string, c Config) (*Port, error) {
	p := NewPort(nc, base, c)
	sub, err := nc.Subscribe(base+".*", func(m *nats.Msg) {
		b := m.Data
		if m.Size() > len(m.Subject)+len(m.Reply)+len(b) {
			b = bytes.Clone(b) // or what was in front of it, which windows do not count, stays in memory, too
		}
		p.Deliver(m.Subject[len(base)+1:], b, m.Header != nil && m.Header.Get("Status") == "503")
	})
	if err != nil {
		return nil, failed(err)
	}
	// What the windows allow has room, so nothing is dropped. What they do not allow a flow
	// finds out, and what was dropped after all, too: by its number.
	most := int(min(int64(p.config.Flows)*Initial+p.config.Budget+1<<20, math.MaxInt32))
	if err := sub.SetPendingLimits(most/frameCost, most); err != nil {
		_ = sub.Unsubscribe()
		return nil, failed(err)
	}
	p.sub = sub
	sub.SetClosedHandler(func(string) { p.Close(errConnection) })
	return p, nil
}

// errConnection is the end of a connection.
var errConnection = ipc.Errorf(ipc.CodeUnavailable, "tandem: the connection to NATS was closed: %w", ipc.ErrDisconnected)

// failed turns an error of nats.go into what a user gets.
func failed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		return errConnection
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrStaleConnection) {
		return ipc.Errorf(ipc.CodeUnavailable, "tandem: nats: %w: %w", ipc.ErrDisconnected, err) // what had been gathered there is lost
	}
	return ipc.Errorf(ipc.CodeUnavailable, "tandem: nats: %w", err)
}

// add gives a flow its name.
func (p *Port) add(f *Flow) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return p.closed
	}
	if len(p.flows) >= p.config.Flows {
		return ipc.Errorf(ipc.CodeResourceExhausted, "tandem: there are %d streams already, and may not be more", len(p.flows))
	}
	for f.name == "" || p.flows[f.name] != nil {
		f.name = rand.Text() // nobody guesses where to send frames of others
	}
	p.flows[f.name] = f
	return nil
}

// remove forgets a flow.
func (p *Port) remove(f *Flow) {
	p.mu.Lock()
	delete(p.flows, f.name)
	p.mu.Unlock()
}

// Len returns how many flows the port has.
func (p *Port) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.flows)
}

// Deliver takes a message that has come for the flow of this name, which keeps b. nobody says that
// it is no frame, but what a NATS server says if nobody has subscribed to a subject.
func (p *Port) Deliver(name string, b []byte, nobody bool) {
	p.mu.Lock()
	f := p.flows[name]
	p.mu.Unlock()
	switch {
	case f == nil: // one that has ended
	case nobody:
		f.nobody()
	default:
		f.deliver(b)
	}
}

// Close ends all flows, and those that would be opened later, with err. Peers are told.
func (p *Port) Close(err error) {
	p.mu.Lock()
	if p.closed != nil {
		p.mu.Unlock()
		return
	}
	p.closed = err
	p.mu.Unlock()
	for _, f := range p.all() {
		f.Abort(err)
	}
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // or the connection was closed
	}
}

// all returns the flows.
func (p *Port) all() []*Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.flows))
}

// End ends the flows that this side has accepted, as [Flow.End] does with err, but sends nothing for which it would have to wait.
func (p *Port) End(err error) {
	over, cancel := context.WithCancelCause(context.Background())
	cancel(err)
	for _, f := range p.all() {
		if f.accepted {
			f.End(over, nil, err)
		}
	}
}

// budget is how much larger than at first all windows of a port may be.
type budget struct {
	size  int64
	spent atomic.Int64
}

// take takes n, unless that is more than a quarter of what is left, so that something remains for
// others.
func (b *budget) take(n int64) bool {
	for {
		spent := b.spent.Load()
		if n > (b.size-spent)/4 {
			return false
		}
		if b.spent.CompareAndSwap(spent, spent+n) {
			return true
		}
	}
}

// put gives n back.
func (b *budget) put(n int64) { b.spent.Add(-n) }

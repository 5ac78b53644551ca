package flow

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// network is a bus between ports in memory. Each port gets its messages in order, from a goroutine
// of its own.
type network struct {
	most int64
	// tamper, if not nil, gets each message for a port, and returns those that arrive.
	tamper func(base string, b []byte) [][]byte

	mu     sync.Mutex
	queues map[string]*queue // by the base of their port
	failed error             // what Publish returns
}

type queue struct {
	port *Port
	cond *sync.Cond
	all  []delivery
	held bool
	over bool
}

type delivery struct {
	name string
	b    []byte
}

func newNetwork(most int64) *network {
	return &network{most: most, queues: make(map[string]*queue)}
}

// listen makes a port of this base, until the test ends.
func (n *network) listen(t interface{ Cleanup(func()) }, base string, c Config) *Port {
	p := NewPort(n, base, c)
	q := &queue{port: p, cond: sync.NewCond(&n.mu)}
	n.mu.Lock()
	n.queues[base] = q
	n.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			n.mu.Lock()
			for (len(q.all) == 0 || q.held) && !q.over {
				q.cond.Wait()
			}
			if q.over {
				n.mu.Unlock()
				return
			}
			d := q.all[0]
			q.all = q.all[1:]
			n.mu.Unlock()
			p.Deliver(d.name, d.b, false)
		}
	}()
	t.Cleanup(func() {
		p.Close(nats.ErrConnectionClosed)
		n.mu.Lock()
		q.over = true
		q.cond.Broadcast()
		n.mu.Unlock()
		<-done
	})
	return p
}

// hold makes the messages for a port wait, or lets them go.
func (n *network) hold(base string, held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queues[base].held = held
	n.queues[base].cond.Broadcast()
}

// fail makes Publish return err, nil for none.
func (n *network) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed = err
}

// MaxPayload implements [Bus].
func (n *network) MaxPayload() int64 { return n.most }

// Publish implements [Bus].
func (n *network) Publish(subject string, data []byte) error {
	if int64(len(data)) > n.most {
		return nats.ErrMaxPayload
	}
	i := strings.LastIndexByte(subject, '.')
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed != nil {
		return n.failed
	}
	q := n.queues[subject[:i]]
	if q == nil {
		return nil // nobody has subscribed to it
	}
	all := [][]byte{append([]byte{}, data...)}
	if n.tamper != nil {
		all = n.tamper(subject[:i], all[0])
	}
	for _, b := range all {
		q.all = append(q.all, delivery{subject[i+1:], b})
	}
	q.cond.Signal()
	return nil
}

// patient is a beat that no test waits for.
const patient = time.Hour

// connect opens a flow between two ports.
func connect(t require.TestingT, a, b *Port) (opener, acceptor *Flow) {
	opener, err := a.Open("b.", func([]byte) error { return nil })
	require.NoError(t, err)
	acceptor, err = b.Accept(opener.Subject(), opener.Granted(), a.config.Beat, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, opener.Opened(ctx))
	return opener, acceptor
}

// pair returns both ends of a flow in a network of its own.
func pair(t *testing.T, c Config) (n *network, opener, acceptor *Flow) {
	if c.Beat == 0 {
		c.Beat = patient
	}
	n = newNetwork(1 << 20)
	opener, acceptor = connect(t, n.listen(t, "a", c), n.listen(t, "b", c))
	return n, opener, acceptor
}

// eventually waits for what must become true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(begun), time.Minute, what)
	}
}

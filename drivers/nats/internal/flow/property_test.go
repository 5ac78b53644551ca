package flow

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// A program says what one side of a flow does.
type program struct {
	sends []sending
	reads int    // how many items it reads; to the end if that is negative
	ends  string // how it ends then
	leave bool   // it does not say that there are no more items
}

type sending struct {
	size               int
	flush, brief, note bool
	how                string // "", "attached", "commit", "drop" or "part"
}

func drawProgram(opener bool) *rapid.Generator[program] {
	return rapid.Custom(func(t *rapid.T) (p program) {
		most := rapid.SampledFrom([]int{10, 300, 5000, 70_000, 300 << 10}).Draw(t, "most")
		n := rapid.SampledFrom([]int{0, 1, 10, 300}).Draw(t, "n")
		brief := rapid.SampledFrom([]int{1000, 30, 2}).Draw(t, "brief")
		for range min(n, max(3, 2<<20/most)) {
			p.sends = append(p.sends, sending{
				size:  rapid.IntRange(0, most).Draw(t, "size"),
				flush: rapid.IntRange(0, 20).Draw(t, "flush") == 0,
				brief: rapid.IntRange(0, brief).Draw(t, "brief") == 0,
				note:  rapid.IntRange(0, 10).Draw(t, "note") == 0,
				how:   rapid.SampledFrom([]string{"", "", "", "attached", "commit", "drop", "part"}).Draw(t, "how"),
			})
		}
		p.reads = rapid.SampledFrom([]int{-1, -1, -1, 0, 1, 20}).Draw(t, "reads")
		if opener {
			p.ends = "abort"
		} else {
			p.leave = rapid.Bool().Draw(t, "leave")
			p.ends = rapid.SampledFrom([]string{"end", "fail", "abort", "deaf"}).Draw(t, "ends")
		}
		return p
	})
}

// side is one side of a flow that runs its program. Each thing that it sends has a number, and the
// peer has to get them in order, as they were, without a gap: notes among items.
type side struct {
	program
	id, peer byte
	f        *Flow

	mu    sync.Mutex
	sent  int // things that were sent without an error
	got   int
	end   error // of what it has received
	fault error // what must not be
}

var errProgram = ipc.NewError(ipc.CodeAborted, "as the program says")

func (s *side) wrong(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		s.fault = fmt.Errorf(format, args...)
	}
}

// withMore is in the first byte of an item that is sent by SendAttached.
const withMore = 0x80

// thing is what side id sends as number i.
func thing(id byte, i, size int) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{id}, uint32(i))
	return append(b, bytes.Repeat([]byte{id + byte(i)}, size)...)
}

// take checks what has come.
func (s *side) take(b []byte) {
	if want := thing(s.peer, s.got, max(len(b)-5, 0)); !bytes.Equal(b, want) {
		s.wrong("thing %d: %d bytes, %x", s.got, len(b), b[:min(len(b), 10)])
	}
	s.got++
}

func (s *side) send(ctx context.Context) {
	for _, what := range s.sends {
		own, cancel := ctx, context.CancelFunc(func() {})
		if what.brief {
			own, cancel = context.WithTimeout(ctx, time.Duration(what.size%3)*100*time.Microsecond)
		}
		b, counts := thing(s.id, s.sent, what.size), 1
		var err error
		switch {
		case what.note && what.size < 10_000:
			err = s.f.Note(own, b)
		case what.how == "attached":
			b[0] |= withMore
			err = s.f.SendAttached(own, b)
			clear(b)
		case what.how == "part":
			var n int
			n, err = s.f.SendPart(own, b)
			if err == nil && n < min(len(b), s.f.frameSize()-header-itemHeader) {
				s.wrong("a part of %d bytes of %d", n, len(b))
			}
		case what.how != "":
			var room []byte
			if room, err = s.f.Claim(own, len(b)+3); err == nil {
				copy(room, b)
				n := len(b)
				if what.how == "drop" {
					n, counts = -1, 0
				}
				err = s.f.Commit(own, n)
			}
		default:
			err = s.f.Send(own, b)
			clear(b) // Send has kept nothing
		}
		if err == nil {
			s.sent += counts
		} else if own.Err() == nil || s.f.Err() != nil {
			cancel()
			return
		}
		if what.flush {
			_ = s.f.Flush(own)
		}
		cancel()
	}
	if !s.leave {
		_ = s.f.CloseSend(ctx)
	}
}

func (s *side) receive(ctx context.Context) {
	for s.reads < 0 || s.got < s.reads {
		b, err := s.f.Receive(ctx)
		if err != nil {
			s.end = err
			return
		}
		if s.f.Attached() != (b[0]&withMore != 0) {
			s.wrong("an item is attached: %v", s.f.Attached())
		}
		b[0] &^= withMore
		s.take(b)
	}
	s.end = errEnough
}

var errEnough = errors.New("enough was read")

// run runs the program, until the side has ended the flow.
func (s *side) run(ctx context.Context) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.send(ctx)
	}()
	s.receive(ctx)
	if s.end == errEnough && s.ends == "deaf" {
		s.f.TakeNoMore()
	}
	switch {
	case s.ends == "abort" && s.end == errEnough:
		s.f.Abort(errProgram)
		<-sent
	case s.ends == "abort":
		<-sent
		s.f.Abort(errProgram)
	case s.ends == "fail":
		<-sent
		s.f.End(ctx, nil, errProgram)
	default:
		<-sent
		s.f.End(ctx, nil, nil)
	}
}

// tampering is what happens to one message.
type tampering struct {
	what string // "", "lose", "double", "swap" or "late"
	at   int    // the number of the message
}

// wire returns a function for network.tamper.
func (w tampering) wire() func(string, []byte) [][]byte {
	if w.what == "" {
		return nil
	}
	count := 0
	var kept []byte
	var from string
	return func(base string, b []byte) [][]byte {
		count++
		switch {
		case count == w.at && w.what == "lose":
			return nil
		case count == w.at && w.what == "double":
			return [][]byte{b, append([]byte{}, b...)}
		case count == w.at:
			kept, from = b, base
			return nil
		case kept != nil && base == from:
			both := [][]byte{b, kept}
			kept = nil
			return both
		}
		return [][]byte{b}
	}
}

// Whatever both sides do, in whatever order, each gets what the other has sent: all of it, in
// order, or as much as it has read; or it gets an error. Lost, doubled and late messages end the flow
// with an error, and nothing that is wrong is ever received.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		opener, acceptor := drawProgram(true).Draw(rt, "opener"), drawProgram(false).Draw(rt, "acceptor")
		w := tampering{rapid.SampledFrom([]string{"", "", "lose", "double", "swap"}).Draw(rt, "what"), rapid.IntRange(2, 30).Draw(rt, "at")}
		window := rapid.SampledFrom([]int64{Initial, 1 << 20}).Draw(rt, "window")
		most := rapid.SampledFrom([]int64{11_000, 1 << 20}).Draw(rt, "payload")
		c := Config{Beat: patient, Window: window}
		if w.what != "" { // and what is lost at the end is found by a beat
			c.Beat = time.Second
		}
		n := newNetwork(most)
		var clean cleanup
		defer clean.run()
		pa, pb := n.listen(&clean, "a", c), n.listen(&clean, "b", c)
		a, b := &side{program: opener, id: 1, peer: 100}, &side{program: acceptor, id: 100, peer: 1}
		n.tamper = w.wire()
		var err error
		a.f, err = pa.Open("b.", func(note []byte) error { a.take(note); return nil })
		require.NoError(rt, err)
		b.f, err = pb.Accept(a.f.Subject(), a.f.Granted(), c.Beat, func(note []byte) error { b.take(note); return nil })
		require.NoError(rt, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(rt, a.f.Opened(ctx))
		var both sync.WaitGroup
		both.Go(func() { a.run(ctx) })
		both.Go(func() { b.run(ctx) })
		both.Wait()
		require.NoError(rt, ctx.Err(), "something hangs")
		require.NoError(rt, a.fault)
		require.NoError(rt, b.fault)
		require.LessOrEqual(rt, a.got, b.sent+1, "what has failed for its context may have been sent")
		require.LessOrEqual(rt, b.got, a.sent+1)
		if a.end == io.EOF {
			require.GreaterOrEqual(rt, a.got, b.sent, "all has come")
		}
		if b.end == io.EOF {
			require.GreaterOrEqual(rt, b.got, a.sent, "all has come")
		}
		if w.what == "" {
			for _, s := range []*side{a, b} {
				require.NotErrorIs(rt, s.end, ipc.ErrProtocol)
				require.NotErrorIs(rt, s.end, ipc.ErrDisconnected)
				require.NotErrorIs(rt, s.end, ipc.ErrPeerGone)
			}
		}
		for begun := time.Now(); pa.Len()+pb.Len() > 0; time.Sleep(time.Millisecond) {
			require.Less(rt, time.Since(begun), time.Minute, "a flow is left")
		}
		require.Zero(rt, pa.budget.spent.Load())
		require.Zero(rt, pb.budget.spent.Load())
	})
}

// cleanup is what a test does at its end.
type cleanup struct{ all []func() }

func (c *cleanup) Cleanup(f func()) { c.all = append(c.all, f) }

func (c *cleanup) run() {
	for _, f := range c.all {
		f()
	}
}

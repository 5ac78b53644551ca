package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// A program says what one side of a stream does: what it sends, how far it reads, and how it
// ends.
type program struct {
	sends []sending
	reads int    // how many items it reads, then it ends; to the end if that is negative
	ends  string // how it ends when it has read as many
	first int    // the size of the item that the stream opens with, -1 for none
	leave bool   // it does not say that there are no more items
}

type sending struct {
	size  int
	flush bool
	brief bool // the context of Send ends at once, or soon
	pause bool
	claim string // how the item is built in place: "", "commit", "part" or "drop"
}

func drawProgram(opener bool) *rapid.Generator[program] {
	return rapid.Custom(func(t *rapid.T) program {
		p := program{first: -1}
		most := rapid.SampledFrom([]int{10, 300, 5000, 12_000, 70_000, 300 << 10}).Draw(t, "most")
		n := rapid.SampledFrom([]int{0, 1, 10, 300}).Draw(t, "n")
		brief := rapid.SampledFrom([]int{30, 2}).Draw(t, "brief")
		for range min(n, max(3, 2<<20/most)) {
			p.sends = append(p.sends, sending{
				size:  rapid.IntRange(0, most).Draw(t, "size"),
				flush: rapid.IntRange(0, 20).Draw(t, "flush") == 0,
				brief: rapid.IntRange(0, brief).Draw(t, "brief") == 0,
				pause: rapid.IntRange(0, 30).Draw(t, "pause") == 0,
				claim: rapid.SampledFrom([]string{"", "", "", "commit", "part", "drop"}).Draw(t, "claim"),
			})
		}
		p.reads = rapid.SampledFrom([]int{-1, -1, 0, 1, 20}).Draw(t, "reads")
		if opener {
			p.ends = rapid.SampledFrom([]string{"close", "cancel"}).Draw(t, "ends")
			p.first = rapid.SampledFrom([]int{-1, -1, 0, 100, 9000, 100_000}).Draw(t, "first")
		} else {
			p.leave = rapid.Bool().Draw(t, "leave")
			p.ends = rapid.SampledFrom([]string{"return", "fail", "panic", "exit"}).Draw(t, "ends")
		}
		return p
	})
}

// half is one side of a stream that runs its program, and what it has seen.
type half struct {
	program
	id   int // of what it sends
	peer int // of what it receives
	most int // what an item may have

	sent int // items that were sent without an error
	got  int
	end  error // of what it has received

	mu    sync.Mutex
	fault error // what must not be
}

func (h *half) wrong(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = fmt.Errorf(format, args...)
}

// send sends all that the program says.
func (h *half) send(ctx context.Context, st *Stream) {
	for _, s := range h.sends {
		item := pattern(make([]byte, s.size), h.id, h.sent)
		own, cancel := ctx, context.CancelFunc(func() {})
		if s.brief {
			own, cancel = context.WithTimeout(ctx, time.Duration(s.size%3)*100*time.Microsecond)
		}
		var err error
		if s.claim == "" {
			err = st.Send(own, item)
			clear(item) // Send has kept nothing
		} else {
			err = s.build(own, st, item)
		}
		var tooLarge *ipc.SizeError
		switch {
		case err == nil:
			if s.claim != "drop" {
				h.sent++
			}
		case errors.As(err, &tooLarge):
			if s.size+100 <= h.most {
				h.wrong("an item of %d bytes: %w", s.size, err)
			}
		case own.Err() != nil && ctx.Err() == nil: // it was not sent, or the stream is over
		default:
			cancel()
			return
		}
		if s.flush {
			_ = st.Flush(own)
		}
		if s.pause {
			time.Sleep(2 * minFlush)
		}
		cancel()
	}
	if !h.leave {
		_ = st.CloseSend(ctx)
	}
}

// build builds an item in place.
func (s *sending) build(ctx context.Context, st *Stream, item []byte) error {
	more := 0
	if s.claim == "part" {
		more = 100
	}
	b, err := st.Claim(ctx, len(item)+more)
	if err != nil {
		return err
	}
	copy(b, item)
	if s.claim == "drop" {
		return st.Commit(ctx, -1)
	}
	return st.Commit(ctx, len(item))
}

// receive reads as the program says. It returns true if it is to end then.
func (h *half) receive(ctx context.Context, st *Stream) bool {
	for n := 0; n != h.reads; n++ {
		b, err := st.Receive(ctx)
		if err != nil {
			h.end = err
			return false
		}
		if !isPattern(b, h.peer, h.got) {
			h.wrong("item %d, of %d bytes, is another one", h.got, len(b))
		}
		h.got++
		if wrong := st.wellKept(); wrong != "" {
			h.wrong("%s", wrong)
		}
	}
	return true
}

// open runs the side that opens the stream.
func (h *half) open(s *Session, stream int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := &ipc.StreamOpening{First: []byte{byte(stream)}}
	var ends atomic.Int64
	o.OnEnd = func(error) { ends.Add(1) }
	if h.first >= 0 {
		o.First = make([]byte, h.first+1)
		pattern(o.First[1:], h.id, 0)
		o.First[0] = byte(stream)
	}
	opened, err := s.OpenStream(ctx, rawCall(), o)
	var tooLarge *ipc.SizeError
	switch {
	case errors.As(err, &tooLarge):
		if ends.Load() != 0 {
			h.wrong("OnEnd of a stream that was not opened")
		}
		return
	case err != nil:
		h.wrong("open: %w", err)
		return
	}
	st := opened.(*Stream)
	var sending sync.WaitGroup
	sending.Go(func() { h.send(ctx, st) })
	if h.receive(ctx, st) {
		if h.ends == "cancel" {
			cancel()
		}
		st.Close()
	}
	sending.Wait()
	st.Close()
	for ends.Load() == 0 {
		runtime.Gosched()
	}
	if ends.Load() > 1 {
		h.wrong("OnEnd was called more than once")
	}
}

// serve runs the side of the handler, when it has read the first item.
func (h *half) serve(ctx context.Context, st *Stream) error {
	var sending sync.WaitGroup
	sending.Go(func() { h.send(ctx, st) })
	read := h.receive(ctx, st)
	sending.Wait()
	if !read && h.end != io.EOF {
		return h.end
	}
	switch h.ends {
	case "fail":
		return errors.New("failed")
	case "panic":
		panic("a handler")
	case "exit":
		runtime.Goexit()
	}
	return nil
}

// What a stream's reader gets is the beginning of what was sent, in order, and all of it if
// the end is in order, whoever ends when and how; at most the window is buffered; calls go on;
// and nothing is left.
func TestStreamPrograms(t *testing.T) {
	before := runtime.NumGoroutine()
	rapid.Check(t, func(t *rapid.T) {
		c := pairConfig{
			room:         rapid.SampledFrom([]int{1, 4, 1000}).Draw(t, "room"),
			maxMessage:   rapid.SampledFrom([]int{4096, 70_000, 1 << 20}).Draw(t, "maxMessage"),
			window:       rapid.SampledFrom([]int{64 << 10, drivers.DefaultWindow}).Draw(t, "window"),
			streamWindow: rapid.SampledFrom([]int{0, drivers.InitialStreamWindow, 12 << 10, 64 << 10}).Draw(t, "streamWindow"),
		}
		n := rapid.IntRange(1, 5).Draw(t, "streams")
		var openers, servers []*half
		for i := range n {
			most := c.maxMessage - drivers.MaxHeader
			openers = append(openers, &half{program: drawProgram(true).Draw(t, "opener"), id: 2 * i, peer: 2*i + 1, most: most})
			servers = append(servers, &half{program: drawProgram(false).Draw(t, "handler"), id: 2*i + 1, peer: 2 * i, most: most})
		}
		byWorker := rapid.Bool().Draw(t, "byWorker")
		reg := new(Registry)
		handle(reg, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		handleStream(reg, func(ctx context.Context, st *Stream) error {
			first, err := st.Receive(ctx)
			if err != nil {
				return err
			}
			h := servers[first[0]]
			if len(first) != openers[first[0]].first+1 && len(first) != 1 || !isPattern(first[1:], h.peer, 0) {
				h.wrong("a first item of %d bytes, or another one", len(first))
			}
			return h.serve(ctx, st)
		})
		host, worker := newStreamPair(c, reg)
		from := host
		if byWorker {
			from = worker
		}
		var run, calls sync.WaitGroup
		over := make(chan struct{})
		var failedCall error
		calls.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				if _, err := echo.Call(context.Background(), []*Session{host, worker}[i%2], []byte("x")); err != nil {
					failedCall = err
				}
			}
		})
		for i, o := range openers {
			run.Go(func() { o.open(from, i) })
		}
		hung := time.AfterFunc(time.Minute, func() {
			stacks := make([]byte, 1<<20)
			panic("hangs\n" + string(stacks[:runtime.Stack(stacks, true)]))
		})
		run.Wait()
		close(over)
		calls.Wait()
		settles(t, host)
		settles(t, worker)
		hung.Stop()
		require.NoError(t, failedCall)
		require.False(t, host.Failing() || worker.Failing(), "the link has ended")
		for i, o := range openers {
			h := servers[i]
			require.NoError(t, o.fault)
			require.NoError(t, h.fault)
			require.LessOrEqual(t, o.got, len(h.sends))
			if o.end == io.EOF {
				require.Equal(t, h.sent, o.got, "an end in order, of %d", i)
			}
			if h.end == io.EOF {
				require.True(t, o.sent == h.got, "an end in order, of %d: sent %d, got %d", i, o.sent, h.got)
			}
		}
		host.Close(0)
		worker.Close(0)
	})
	noGoroutines(t, before)
}

// Whoever waits for an answer gets it: nothing that was sent stays behind.
func TestStreamConversations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := pairConfig{
			room: rapid.SampledFrom([]int{1, 1000}).Draw(t, "room"), maxMessage: 1 << 20, window: drivers.DefaultWindow,
			streamWindow: rapid.SampledFrom([]int{0, drivers.InitialStreamWindow}).Draw(t, "streamWindow"),
		}
		type turn struct{ asked, answered, size int }
		turns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) turn {
			most := rapid.SampledFrom([]int{1, 30, 500}).Draw(t, "most")
			return turn{rapid.IntRange(1, most).Draw(t, "asked"), rapid.IntRange(1, most).Draw(t, "answered"), rapid.SampledFrom([]int{1, 60, 700}).Draw(t, "size")}
		}), 1, 10).Draw(t, "turns")
		say := func(st *Stream, id, n, size int) error {
			item := make([]byte, size)
			for i := range n {
				if err := st.Send(context.Background(), pattern(item, id, i)); err != nil {
					return err
				}
			}
			return nil
		}
		hear := func(st *Stream, id, n int) error {
			for i := range n {
				b, err := st.Receive(context.Background())
				if err != nil {
					return err
				}
				if !isPattern(b, id, i) {
					return fmt.Errorf("item %d of turn %d is another one", i, id)
				}
			}
			return nil
		}
		reg := new(Registry)
		handleStream(reg, func(_ context.Context, st *Stream) error {
			for i, turn := range turns {
				if err := errors.Join(hear(st, i, turn.asked), say(st, -i, turn.answered, turn.size)); err != nil {
					return err
				}
			}
			return nil
		})
		host, worker := newStreamPair(c, reg)
		hung := time.AfterFunc(time.Minute, func() { panic("hangs") })
		st, err := host.OpenStream(context.Background(), rawCall(), &ipc.StreamOpening{})
		require.NoError(t, err)
		for i, turn := range turns {
			require.NoError(t, say(st.(*Stream), i, turn.asked, turn.size))
			require.NoError(t, hear(st.(*Stream), -i, turn.answered))
		}
		_, err = st.Receive(context.Background())
		require.Equal(t, io.EOF, err)
		settles(t, host)
		settles(t, worker)
		hung.Stop()
		host.Close(0)
		worker.Close(0)
	})
}

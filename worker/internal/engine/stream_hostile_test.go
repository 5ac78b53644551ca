package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func openingOf(tx uint64, window int64, items ...string) drivers.Frame {
	word := drivers.AppendOpening(nil, &drivers.Opening{Window: window})
	return drivers.Frame{Kind: drivers.KindOpen, Tx: tx, Method: raw.Info().ID, Payload: append(word, listOf(items...)...)}
}

func itemsOf(tx, how uint64, payload []byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindItems, Tx: tx, Method: how, Payload: payload}
}

// What a peer must not send about streams ends the link with an error that names it, or, if
// it concerns the items of one stream, that stream alone. 2 is a stream that this side, the
// host, has opened, and 3 one that the peer has opened.
func TestHostileStreamFrames(t *testing.T) {
	const open = drivers.InitialStreamWindow
	piece := itemsOf(2, drivers.ItemPiece, make([]byte, 4000))
	for name, row := range map[string]struct {
		frames []drivers.Frame
		says   string // the error of the link, or
		stream string // that of the stream 2
	}{
		"items over the credit, at once":      {[]drivers.Frame{itemsOf(2, 0, make([]byte, open+8))}, "8200 bytes of items for a stream (0x2) that takes 8192", ""},
		"items over the credit, in two":       {[]drivers.Frame{itemsOf(2, drivers.ItemWhole, make([]byte, open-16)), itemsOf(2, drivers.ItemWhole, make([]byte, 1))}, "16 bytes of items for a stream (0x2) that takes 8", ""},
		"items over the credit, for handlers": {[]drivers.Frame{openingOf(3, open, "x"), itemsOf(3, 0, make([]byte, open))}, "for a stream (0x3) that takes 8176", ""},
		"pieces over the credit":              {[]drivers.Frame{piece, piece, piece}, "4008 bytes of items", ""},
		"credit overflow, at once":            {[]drivers.Frame{{Kind: drivers.KindWindow, Tx: 2, Payload: []byte{255, 255, 255, 255, 255, 255, 255, 127}}}, "grows by 9223372036854775807 bytes", ""},
		"credit of 0":                         {[]drivers.Frame{{Kind: drivers.KindWindow, Tx: 2, Payload: make([]byte, 8)}}, "malformed frame: a window of 8 bytes", ""},
		"credit of a negative number":         {[]drivers.Frame{{Kind: drivers.KindWindow, Tx: 2, Payload: []byte{0, 0, 0, 0, 0, 0, 0, 128}}}, "malformed frame: a window of 8 bytes", ""},
		"credit of nothing":                   {[]drivers.Frame{{Kind: drivers.KindWindow, Tx: 2}}, "malformed frame: a window of 0 bytes", ""},
		"an opening of nothing":               {[]drivers.Frame{{Kind: drivers.KindOpen, Tx: 3, Method: raw.Info().ID}}, "an opening of 0 bytes", ""},
		"a window of 0":                       {[]drivers.Frame{openingOf(3, 0)}, "a stream's window of 0 bytes", ""},
		"a window of a byte too little":       {[]drivers.Frame{openingOf(3, open-1)}, "a stream's window of 8191 bytes", ""},
		"a huge window":                       {[]drivers.Frame{openingOf(3, math.MaxInt64)}, "a stream's window of 9223372036854775807 bytes", ""},
		"an opening with too many items":      {[]drivers.Frame{openingOf(3, open, string(make([]byte, open)))}, "an opening with 8200 bytes of items", ""},
		"an opening with half an item":        {[]drivers.Frame{{Kind: drivers.KindOpen, Tx: 3, Payload: append(openingOf(3, open).Payload, 1, 2, 3)}}, "an opening with 3 bytes of items", ""},
		"opened twice":                        {[]drivers.Frame{openingOf(3, open), openingOf(3, open)}, "a stream (0x3) is opened twice", ""},
		"opened by us":                        {[]drivers.Frame{openingOf(4, open)}, "opened with the tx 0x4, which is not the peer's", ""},
		"opened without a tx":                 {[]drivers.Frame{openingOf(1, open)}, "opened with the tx 0x1", ""},
		"items of none of ours":               {[]drivers.Frame{itemsOf(4, 0, make([]byte, 8))}, "a frame of kind items for a stream (0x4) that was never opened", ""},
		"items of none of the peer's":         {[]drivers.Frame{itemsOf(5, 0, make([]byte, 8))}, "a frame of kind items for a stream (0x5) that was never opened", ""},
		"items of no stream":                  {[]drivers.Frame{itemsOf(0, 0, make([]byte, 8))}, "for a stream (0x0) that was never opened", ""},
		"a window of no stream":               {[]drivers.Frame{windowOf(1<<63, 1)}, "a frame of kind window for a stream (0x8000000000000000)", ""},
		"an end of no stream":                 {[]drivers.Frame{endOfStream(7, drivers.EndSent)}, "a frame of kind end for a stream (0x7)", ""},
		"no items":                            {[]drivers.Frame{itemsOf(2, 0, nil)}, "items of 0 bytes, of form 0", ""},
		"a piece of nothing":                  {[]drivers.Frame{itemsOf(2, drivers.ItemPiece, nil)}, "items of 0 bytes, of form 2", ""},
		"items of an unknown form":            {[]drivers.Frame{itemsOf(2, 3, make([]byte, 8))}, "items of 8 bytes, of form 3", ""},
		"items of an odd size":                {[]drivers.Frame{itemsOf(2, 0, make([]byte, 9))}, "items of 9 bytes, of form 0", ""},
		"items after their end":               {[]drivers.Frame{endOfStream(2, drivers.EndSent), itemsOf(2, 0, make([]byte, 8))}, "items of a stream (0x2) after their end", ""},
		"an end without a reason":             {[]drivers.Frame{{Kind: drivers.KindEnd, Tx: 2}}, "an end without a reason", ""},
		"an unknown end":                      {[]drivers.Frame{endOfStream(2, 99)}, "a stream (0x2) ends with code 99", ""},
		"our stream is given up by the peer":  {[]drivers.Frame{endOfStream(2, drivers.EndGivenUp)}, "a stream (0x2) ends with code 3", ""},
		"the peer returns from its stream":    {[]drivers.Frame{openingOf(3, open), endOfStream(3, drivers.EndReturned)}, "a stream (0x3) ends with code 1", ""},
		"the opener takes no more":            {[]drivers.Frame{openingOf(3, open), endOfStream(3, drivers.EndTaken)}, "a stream (0x3) ends with code 5", ""},
		"an item that is cut short":           {[]drivers.Frame{itemsOf(2, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0})}, "", "malformed items: one is cut short"},
		"an item of a negative size":          {[]drivers.Frame{itemsOf(2, 0, []byte{0, 0, 0, 0, 0, 0, 0, 255})}, "", "malformed items: one is cut short"},
		"items after the piece of one":        {[]drivers.Frame{itemsOf(2, drivers.ItemPiece, make([]byte, 8)), itemsOf(2, 0, make([]byte, 8))}, "", "others follow the piece of one"},
		"an end after the piece of an item":   {[]drivers.Frame{itemsOf(2, drivers.ItemPiece, make([]byte, 8)), endOfStream(2, drivers.EndSent)}, "", "the last one is cut short"},
		"an error that cannot be read":        {[]drivers.Frame{endOfStream(2, drivers.EndFailed, 0xff, 0xff)}, "", "cannot be read"},
		"a failure of nothing":                {[]drivers.Frame{endOfStream(2, drivers.EndFailed)}, "", "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			handle(reg, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			handleStream(reg, func(ctx context.Context, _ *Stream) error {
				<-ctx.Done()
				return ctx.Err()
			})
			s, l := newTestSession(t, reg)
			st := openRaw(t, s, &ipc.StreamOpening{})
			require.EqualValues(t, 2, st.tx)
			<-l.sent
			for _, f := range row.frames {
				l.push(f)
			}
			if row.stream != "" {
				_, err := st.Receive(t.Context())
				require.ErrorContains(t, err, row.stream)
				require.False(t, s.Failing())
				l.push(endOfStream(2, drivers.EndReturned)) // the peer's handler hears of it
				settles(t, s)
				request, result := startAfter(t, s, l)
				l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("answer")})
				require.NoError(t, <-result, "the link lives")
				return
			}
			<-s.Done()
			require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
			require.ErrorContains(t, s.Err(), row.says)
			_, err := st.Receive(context.Background())
			for err == nil {
				_, err = st.Receive(context.Background()) // what had come before
			}
			require.Equal(t, s.Err(), err)
		})
	}
}

// startAfter is start, with other frames in between.
func startAfter(t *testing.T, s *Session, l *fakeLink) (request drivers.Frame, result chan error) {
	t.Helper()
	result = make(chan error, 1)
	go func() {
		_, err := echo.Call(context.Background(), s, []byte("x"))
		result <- err
	}()
	return frameOf(l, drivers.KindRequest), result
}

// Frames for streams that have ended are no faults: they have crossed the end.
func TestFramesOfEndedStreams(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(context.Context, *Stream) error { return nil })
	s, l := newTestSession(t, reg)
	given, returned := openRaw(t, s, &ipc.StreamOpening{}), openRaw(t, s, &ipc.StreamOpening{})
	given.Close()
	l.push(endOfStream(returned.tx, drivers.EndReturned))
	_, err := returned.Receive(t.Context())
	require.Equal(t, io.EOF, err)
	l.push(openingOf(5, drivers.InitialStreamWindow))
	await(t, "the handler has returned", func() bool { return frameOf(l, drivers.KindEnd).Tx == 5 })
	for range 2 {
		for _, tx := range []uint64{given.tx, returned.tx, 5, 3} { // 3 may be on its way, though 5 came first
			for _, f := range []drivers.Frame{itemsOf(tx, 0, make([]byte, 8)), itemsOf(tx, drivers.ItemPiece, make([]byte, 8)), windowOf(tx, 1), endOfStream(tx, drivers.EndSent)} {
				l.push(f)
			}
		}
		for _, tx := range []uint64{given.tx, returned.tx} {
			l.push(endOfStream(tx, drivers.EndReturned))
			l.push(endOfStream(tx, drivers.EndFailed))
		}
		l.push(endOfStream(5, drivers.EndGivenUp))
	}
	request, result := startAfter(t, s, l)
	l.push(drivers.Frame{Kind: drivers.KindResponse, Tx: request.Tx, Payload: []byte("answer")})
	require.NoError(t, <-result)
	settles(t, s)
}

// A peer may have so many streams open and no more, and what it opens and ends does not make
// us keep more than that many ends for it.
func TestHostileNumberOfStreams(t *testing.T) {
	t.Run("open", func(t *testing.T) {
		reg := new(Registry)
		handleStream(reg, func(ctx context.Context, _ *Stream) error {
			<-ctx.Done()
			return nil
		})
		l := &deafLink{fakeLink: newFakeLink()}
		s := newSessionOn(t, reg, l)
		for i := range uint64(drivers.MaxStreams) {
			l.push(openingOf(2*i+3, drivers.InitialStreamWindow))
		}
		for l.pending() {
			runtime.Gosched()
		}
		require.False(t, s.Failing())
		l.push(openingOf(1<<40|1, drivers.InitialStreamWindow))
		<-s.Done()
		require.ErrorContains(t, s.Err(), "the peer has opened 16384 streams that have not ended, and may open no more")
	})
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends that nobody reads, with a handler: %v", known), func(t *testing.T) {
			reg := new(Registry)
			if known {
				handleStream(reg, func(context.Context, *Stream) error { return nil })
			}
			l := &failingLink{fakeLink: newFakeLink(), kind: drivers.KindEnd}
			l.first = func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}
			s := newSessionOn(t, reg, l)
			for i := uint64(1); !s.Failing(); i++ {
				l.push(openingOf(2*i+1, drivers.InitialStreamWindow))
				require.Less(t, i, uint64(1<<20))
				if i%64 == 0 {
					for l.backlog() > 0 && !s.Failing() {
						runtime.Gosched()
					}
				}
			}
			<-s.Done()
			require.ErrorIs(t, s.Err(), ipc.ErrProtocol)
			s.Close(0)
		})
	}
}

func (l *fakeLink) backlog() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.in)
}

// What a stream has received takes at most four times the memory that it counts for in the window, as
// whatever it came.
func TestReceivedItemsTakeTheirSize(t *testing.T) {
	const window = 4 << 20
	s, _ := newTestSession(t, new(Registry))
	for name, next := range map[string]func(i int) drivers.Frame{
		"empty items":              func(int) drivers.Frame { return itemsOf(2, drivers.ItemWhole, nil) },
		"lists of an empty item":   func(int) drivers.Frame { return itemsOf(2, 0, make([]byte, 8)) },
		"empty items, either way":  func(i int) drivers.Frame { return itemsOf(2, uint64(i%2), make([]byte, 8-8*(i%2))) },
		"pieces of a byte":         func(int) drivers.Frame { return itemsOf(2, drivers.ItemPiece, make([]byte, 1)) },
		"pieces and ends of items": func(i int) drivers.Frame { return itemsOf(2, 2-uint64(i%2), make([]byte, 1)) },
		"pieces, items and lists":  func(i int) drivers.Frame { return itemsOf(2, uint64(2-i%3), make([]byte, 8)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			runtime.GC()
			runtime.GC() // twice, so that pools are empty
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			st := &Stream{session: s, tx: 2}
			st.init(window)
			for i := 0; ; i++ {
				f := next(i)
				cost := drivers.ItemsCost(&f)
				if st.in.received+cost > window {
					break
				}
				require.NoError(t, st.receive(&f))
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(4*window))
			runtime.KeepAlive(st)
		})
	}
}

// Pieces without an end are refused when they are more than a message may have.
func TestEndlessPieces(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	st := openRaw(t, s, &ipc.StreamOpening{})
	go func() {
		room := int64(drivers.InitialStreamWindow)
		for {
			for ; room >= 4008; room -= 4008 {
				l.push(itemsOf(st.tx, drivers.ItemPiece, make([]byte, 4000)))
			}
			f, ok := <-l.sent
			if !ok || f.Kind == drivers.KindEnd {
				return
			}
			if f.Kind == drivers.KindWindow {
				more, _ := drivers.ParseWindow(f.Payload)
				room += more
			}
		}
	}()
	_, err := st.Receive(t.Context())
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.ErrorContains(t, err, "an item of more than 1048576 bytes")
	require.False(t, s.Failing())
	_, err = st.Receive(t.Context())
	require.True(t, errors.Is(err, ipc.ErrProtocol))
}

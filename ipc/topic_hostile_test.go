package ipc_test

import (
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// words are the items of a publisher: numbers of 8 bytes.
func words(w ...uint64) []byte {
	var b []byte
	for _, n := range w {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// A publisher that does not keep to the protocol ends its subscription, after what was right, and nothing else.
func TestTopicHostilePublisher(t *testing.T) {
	raw := ipc.NewTopic[[]byte]("topic_test.raw", ipc.WithCodec(ipc.Raw))
	begin := words(0, 5, 0, 0, 0)
	for name, row := range map[string]struct {
		items [][]byte
		open  bool   // Open succeeds
		right int    // records, then
		lost  uint64 // that are told
		clean bool   // no error
	}{
		"nothing":                   {},
		"no begin":                  {items: [][]byte{words(5)}},
		"an empty begin":            {items: [][]byte{{}}},
		"a long begin":              {items: [][]byte{words(0, 5, 0, 0, 0, 0)}},
		"a begin with a number":     {items: [][]byte{words(1, 5, 0, 0, 0)}},
		"nothing is next":           {items: [][]byte{words(0, 0, 0, 0, 0)}},
		"more before than there is": {items: [][]byte{words(0, 5, 5, 0, 0)}},
		"another form":              {items: [][]byte{words(0, 5, 0, 2, 0)}},
		"no memory":                 {items: [][]byte{words(0, 5, 0, 1, 0)}},
		"a position of nothing":     {items: [][]byte{words(0, 5, 0, 0, 8)}},
		"no records":                {items: [][]byte{begin}, open: true, clean: true},
		"the right ones":            {items: [][]byte{begin, words(5), words(6, 6)}, open: true, right: 2, clean: true},
		"a gap":                     {items: [][]byte{begin, words(5), words(8)}, open: true, right: 2, lost: 2, clean: true},
		"a gap at first":            {items: [][]byte{begin, words(1 << 63)}, open: true, right: 1, lost: 1<<63 - 5, clean: true},
		"one twice":                 {items: [][]byte{begin, words(5), words(5)}, open: true, right: 1},
		"backwards":                 {items: [][]byte{begin, words(6), words(5)}, open: true, right: 1, lost: 1},
		"one of before":             {items: [][]byte{begin, words(4)}, open: true},
		"number 0":                  {items: [][]byte{begin, words(0, 1, 2)}, open: true},
		"the last number":           {items: [][]byte{begin, words(1<<64 - 1), words(3)}, open: true},
		"the last but one, twice":   {items: [][]byte{begin, words(1<<64 - 2), words(1<<64 - 2)}, open: true, right: 1, lost: 1<<64 - 2 - 5},
		"a short record":            {items: [][]byte{begin, {5, 0, 0}}, open: true},
		"an empty record":           {items: [][]byte{begin, {}}, open: true},
		"a second begin":            {items: [][]byte{begin, begin}, open: true},
		"records before":            {items: [][]byte{words(0, 5, 2, 0, 0), words(1), words(4), words(5)}, open: true, right: 3, clean: true},
		"too few before":            {items: [][]byte{words(0, 5, 2, 0, 0), words(1)}, open: true, right: 1},
		"new ones before":           {items: [][]byte{words(0, 5, 2, 0, 0), words(1), words(5)}, open: true, right: 1},
		"unordered before":          {items: [][]byte{words(0, 5, 2, 0, 0), words(3), words(2)}, open: true, right: 1},
		"one twice before":          {items: [][]byte{words(0, 5, 2, 0, 0), words(3), words(3)}, open: true, right: 1},
		"number 0 before":           {items: [][]byte{words(0, 5, 1, 0, 0), words(0)}, open: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t, 8)
			var ended error
			served := make(chan struct{})
			l.RegisterStream(raw.Info(), func(ctx context.Context, st ipc.Stream, _ <-chan struct{}) error {
				defer close(served)
				for _, item := range row.items {
					if err := st.Send(ctx, item); err != nil {
						ended = err
						return err
					}
				}
				if row.open && !row.clean { // it would go on
					<-ctx.Done()
					ended = ctx.Err()
				}
				return nil
			})
			if name == "too few before" {
				row.items = append(row.items, nil)
			}
			s, err := raw.Open(t.Context(), l)
			if !row.open {
				require.ErrorIs(t, err, ipc.ErrProtocol)
				<-served
				return
			}
			require.NoError(t, err)
			right := 0
			for {
				_, err = s.Receive(t.Context())
				if lost := (*ipc.LostError)(nil); err == nil {
					right++
				} else if lost, _ = err.(*ipc.LostError); lost == nil {
					break
				}
			}
			require.Equal(t, row.right, right)
			require.Equal(t, ipc.SubscriptionStats{Received: uint64(row.right), Lost: row.lost}, s.Stats())
			if row.clean {
				require.Equal(t, io.EOF, err)
				<-served
				return
			}
			require.ErrorIs(t, err, ipc.ErrProtocol)
			require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
			<-served // since the subscription was given up
			require.ErrorIs(t, ended, context.Canceled)
			_, err = s.Receive(t.Context())
			require.ErrorIs(t, err, ipc.ErrClosed)
		})
	}
}

// A publisher that ends before all that it has promised does not end well.
func TestTopicSnapshotCutShort(t *testing.T) {
	l := newLoop(t, 8)
	l.RegisterStream(counting.Info(), func(ctx context.Context, st ipc.Stream, _ <-chan struct{}) error {
		return st.Send(ctx, words(0, 5, 2, 0, 0))
	})
	s, err := counting.Open(t.Context(), l)
	require.NoError(t, err)
	_, err = s.Receive(t.Context())
	require.ErrorIs(t, err, ipc.ErrProtocol)
}

// A subscriber that does not keep to the protocol is refused, and one that sends what nobody asks for harms nobody.
func TestTopicHostileSubscriber(t *testing.T) {
	l := newLoop(t, 1)
	p := publisher(t, counting, l, ipc.Keep(2), ipc.CutOffAfter(time.Hour))
	good := open(t, counting, l)
	call := &ipc.Invocation{Method: counting.Info()}
	for _, request := range [][]byte{{}, {1}, {1, 0}, {1, 0, 0, 0}, {0, 0, 0}, {2, 0, 0}, {1, 3, 0}, {1, 255, 0}, {1, 0, 4}, {1, 0, 128}, {1, 0, 255}, make([]byte, 1000)} {
		st, err := l.OpenStream(t.Context(), call, &ipc.StreamOpening{First: request})
		require.NoError(t, err)
		_, err = st.Receive(t.Context())
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err), "%x: %v", request, err)
		st.Close()
	}
	st, err := l.OpenStream(t.Context(), call, &ipc.StreamOpening{First: []byte{1, 0, 0}})
	require.NoError(t, err)
	_, err = st.Receive(t.Context())
	require.NoError(t, err)
	require.NoError(t, st.Send(t.Context(), make([]byte, 1000)))
	for n := range uint64(100) {
		require.NoError(t, p.Publish(t.Context(), n+1))
	}
	require.Equal(t, 2, p.Stats().Subscribers)
	st.Close()
	require.NoError(t, p.Close())
	f := follower{next: 1}
	require.NoError(t, f.all(t, good, nil))
	require.Equal(t, uint64(101), f.next)
}

package drivertest

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// most is as much metadata as there may be, in one field.
func most(c string) ipc.Metadata { return ipc.Pairs("key", strings.Repeat(c, ipc.MaxMetadata-35)) }

// testMetadata: metadata survives with frames of every size, alone and among others, sent one by
// one, together and from the link's own memory, and counts against the largest message.
func testMetadata(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	all := []*drivers.Metadata{
		nil,
		drivers.NewMetadata(ipc.Pairs("a", "b", "a", "", "c-d_e.f", "\x00\xff"), nil),
		drivers.NewMetadata(nil, ipc.Pairs("t", "railer")),
		drivers.NewMetadata(most("h"), most("t")),
	}
	var frames []drivers.Frame
	for i, size := range []int{0, 10, 4 << 10, 20_000, 300_000, 3 << 20} {
		for j, meta := range all {
			tx := uint64(i*len(all) + j)
			frames = append(frames, drivers.Frame{Kind: drivers.KindResponse, Tx: tx, Method: 7, Payload: payload(tx, size), Meta: meta})
		}
	}
	check := func(want *drivers.Frame) {
		t.Helper()
		got := p.receive()
		require.Equal(t, want.Tx, got.Tx)
		require.NoError(t, checkPattern(got.Tx, got.Payload))
		require.Len(t, got.Payload, len(want.Payload))
		if want.Meta == nil {
			require.Nil(t, got.Meta)
			return
		}
		require.NotNil(t, got.Meta, "the metadata is lost")
		assert.Equal(t, *want.Meta, *got.Meta)
	}
	for i := range frames {
		p.send(frames[i])
		check(&frames[i])
	}
	for batch := frames; len(batch) > 0; { // a few at a time, so that nobody waits for the other
		n := min(5, len(batch))
		sent := make(chan error, 1)
		go func() {
			_, err := p.link.SendBatch(context.Background(), batch[:n])
			sent <- err
		}()
		for i := range n {
			check(&batch[i])
		}
		require.NoError(t, <-sent)
		batch = batch[n:]
	}
	if c, ok := p.link.(drivers.Claimer); ok {
		for i := range frames {
			f := frames[i]
			if len(f.Payload) > 4<<10 {
				break
			}
			buf, err := c.Claim(context.Background(), &f, len(f.Payload))
			require.NoError(t, err)
			copy(buf, f.Payload)
			c.Commit(len(f.Payload))
			check(&f)
		}
	}
	p.end()

	const limit = 64 << 10
	p = s.start(t, script{Do: "mirror"}, withMaxMessage(limit))
	full := drivers.Frame{Kind: drivers.KindResponse, Tx: 1, Meta: all[3], Payload: payload(1, limit-drivers.MaxHeader-all[3].EncodedSize())}
	p.send(full)
	check(&full)
	full.Payload = payload(1, limit-all[3].EncodedSize())
	var size *ipc.SizeError
	require.ErrorAs(t, p.link.Send(context.Background(), &full), &size, "the metadata counts")
	n, err := p.link.SendBatch(context.Background(), []drivers.Frame{{Kind: drivers.KindNotify, Payload: payload(0, 1)}, full})
	require.ErrorAs(t, err, &size)
	require.Equal(t, 1, n)
	require.Zero(t, p.receive().Tx)
	p.echo(2, 10)
	p.end()
}

package flow

import (
	"bytes"
	"context"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// raw is a frame as a hostile peer could send it.
func raw(kind byte, number uint64, granted int64, body string) []byte {
	b := append(make([]byte, header), body...)
	putHeader(b, kind, number, granted)
	return b
}

// items is the body of a frame with one item.
func items(item string) string { return string(appendItem(nil, []byte(item), 0)) }

// hostile are messages from a peer, after the first frame, that has number 1. Each ends the flow, and
// no other one.
var hostile = map[string]struct {
	frames [][]byte
	code   ipc.Code
	is     error
}{
	"nothing":                    {[][]byte{nil}, ipc.CodeInternal, ipc.ErrProtocol},
	"short":                      {[][]byte{make([]byte, header-1)}, ipc.CodeInternal, ipc.ErrProtocol},
	"no kind":                    {[][]byte{raw(0, 2, Initial, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"unknown kind":               {[][]byte{raw(99, 2, Initial, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"accepted twice":             {[][]byte{raw(kindAccept, 2, Initial, "b.x")}, ipc.CodeInternal, ipc.ErrProtocol},
	"gap":                        {[][]byte{raw(kindItems, 3, Initial, items("x"))}, ipc.CodeUnavailable, ipc.ErrDisconnected},
	"double":                     {[][]byte{raw(kindAlive, 2, Initial, ""), raw(kindAlive, 2, Initial, "")}, ipc.CodeUnavailable, ipc.ErrDisconnected},
	"number 0":                   {[][]byte{raw(kindAlive, 0, Initial, "")}, ipc.CodeUnavailable, ipc.ErrDisconnected},
	"last number":                {[][]byte{raw(kindAlive, math.MaxUint64, Initial, "")}, ipc.CodeUnavailable, ipc.ErrDisconnected},
	"less granted":               {[][]byte{raw(kindAlive, 2, Initial-1, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"too much granted":           {[][]byte{raw(kindAlive, 2, math.MaxInt64, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"no items":                   {[][]byte{raw(kindItems, 2, Initial, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"a beat with a body":         {[][]byte{raw(kindAlive, 2, Initial, "x")}, ipc.CodeInternal, ipc.ErrProtocol},
	"short item":                 {[][]byte{raw(kindItems, 2, Initial, "abc")}, ipc.CodeInternal, ipc.ErrProtocol},
	"item beyond frame":          {[][]byte{raw(kindItems, 2, Initial, "\xff\xff\xff\x7fabc")}, ipc.CodeInternal, ipc.ErrProtocol},
	"piece, then the end":        {[][]byte{raw(kindItems, 2, Initial, "\x01\x00\x00\x80x"), raw(kindSent, 3, Initial, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"items after the last":       {[][]byte{raw(kindSent, 2, Initial, ""), raw(kindItems, 3, Initial, items("x"))}, ipc.CodeInternal, ipc.ErrProtocol},
	"last twice":                 {[][]byte{raw(kindSent, 2, Initial, ""), raw(kindSent, 3, Initial, "")}, ipc.CodeInternal, ipc.ErrProtocol},
	"more than the window":       {[][]byte{raw(kindItems, 2, Initial, items(strings.Repeat("x", Initial)))}, ipc.CodeInternal, ipc.ErrProtocol},
	"a note that nobody expects": {[][]byte{raw(kindNote, 2, Initial, "x")}, ipc.CodeInternal, ipc.ErrProtocol},
	"garbage for an error":       {[][]byte{raw(kindAbort, 2, Initial, "x")}, ipc.CodeInternal, nil},
}

// A peer that sends what it must not ends its flow, and is told why. Others go on.
func TestHostilePeer(t *testing.T) {
	for name, row := range hostile {
		for _, side := range []string{"opener", "acceptor"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				n := newNetwork(1 << 20)
				c := Config{Beat: patient}
				pa, pb := n.listen(t, "a", c), n.listen(t, "b", c)
				good, other := connect(t, pa, pb)
				var f *Flow
				var err error
				p := pa
				if side == "opener" {
					f, err = pa.Open("evil.", nil)
					require.NoError(t, err)
					pa.Deliver(f.name, raw(kindAccept, 1, Initial, "evil.x"), false)
					require.NoError(t, f.Opened(t.Context()))
				} else {
					p = pb
					f, err = pb.Accept("evil.x", Initial, patient, nil)
					require.NoError(t, err)
					pb.Deliver(f.name, raw(kindAlive, 1, Initial, ""), false)
				}
				for _, b := range row.frames {
					p.Deliver(f.name, b, false)
				}
				err = nil
				for err == nil || err == io.EOF && f.Err() == nil {
					_, err = f.Receive(t.Context())
				}
				require.Equal(t, row.code, ipc.CodeOf(err), "%v", err)
				if row.is != nil {
					require.ErrorIs(t, err, row.is)
				}
				require.Error(t, f.Send(t.Context(), []byte("x")))
				eventually(t, "it is forgotten", func() bool { return p.Len() == 1 })
				require.NoError(t, good.Send(t.Context(), []byte("fine")))
				require.Equal(t, "fine", receive(t, other))
			})
		}
	}
}

// What says that it accepts a flow has to be the peer that was asked.
func TestHostileAccept(t *testing.T) {
	for name, b := range map[string][]byte{
		"elsewhere":    raw(kindAccept, 1, Initial, "c.x"),
		"nowhere":      raw(kindAccept, 1, Initial, ""),
		"many":         raw(kindAccept, 1, Initial, "b.*"),
		"two commands": raw(kindAccept, 1, Initial, "b.x\r\nPUB b.y 0\r\n\r\n"),
		"long":         raw(kindAccept, 1, Initial, "b."+strings.Repeat("x", 2000)),
		"no window":    raw(kindAccept, 1, Initial-1, "b.x"),
		"second":       raw(kindAccept, 2, Initial, "b.x"),
		"items":        raw(kindItems, 1, Initial, items("x")),
		"end":          raw(kindEnd, 1, Initial, "\x00\x00\x00\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			p := newNetwork(1<<20).listen(t, "a", Config{Beat: patient})
			f, err := p.Open("b.", nil)
			require.NoError(t, err)
			p.Deliver(f.name, b, false)
			require.Error(t, f.Opened(t.Context()))
			require.Contains(t, []ipc.Code{ipc.CodeInternal, ipc.CodeUnavailable}, ipc.CodeOf(f.Err()))
			require.Zero(t, p.Len())
		})
	}
	p := newNetwork(1<<20).listen(t, "a", Config{Beat: patient})
	for _, subject := range []string{"", "a b", "a.*", "a.>", "a\r\n"} {
		_, err := p.Accept(subject, Initial, patient, nil)
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	}
	_, err := p.Accept("x", Initial-1, patient, nil)
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	_, err = p.Accept("x", Initial, -1, nil)
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	require.Zero(t, p.Len())
}

// Only the side that has accepted a flow ends it.
func TestHostileEnd(t *testing.T) {
	p := newNetwork(1<<20).listen(t, "a", Config{Beat: patient})
	f, err := p.Accept("b.x", Initial, patient, nil)
	require.NoError(t, err)
	p.Deliver(f.name, raw(kindEnd, 1, Initial, "\x00\x00\x00\x00"), false)
	require.ErrorIs(t, f.Err(), ipc.ErrProtocol)
	for _, body := range []string{"", "abc", "\x01\x00\x00\x00", "\x00\x00\x00\x80", "\x01\x00\x00\x80x"} {
		f, err := p.Open("b.", nil)
		require.NoError(t, err)
		p.Deliver(f.name, raw(kindAccept, 1, Initial, "b.x"), false)
		p.Deliver(f.name, raw(kindEnd, 2, Initial, body), false)
		require.ErrorIs(t, f.Err(), ipc.ErrProtocol, body)
	}
}

// An item that never ends takes no more memory than the largest one.
func TestHostilePieces(t *testing.T) {
	n := newNetwork(1 << 20)
	p := n.listen(t, "a", Config{Beat: patient, MaxItem: 100_000})
	f, err := p.Accept("b.x", Initial, patient, nil)
	require.NoError(t, err)
	piece := string(appendItem(nil, make([]byte, 1000), piece))
	go func() {
		for number := uint64(1); f.Err() == nil; {
			f.mu.Lock()
			room := f.in.granted.Load() - f.in.received
			f.mu.Unlock()
			if room > 2000 {
				p.Deliver(f.name, raw(kindItems, number, Initial, piece), false)
				number++
			}
		}
	}()
	_, err = f.Receive(t.Context())
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "100000")
}

// FuzzDeliver gives a flow any messages. It ends or goes on, what it holds is bounded, and nothing
// is left of it when it is over.
func FuzzDeliver(f *testing.F) {
	for _, row := range hostile {
		for _, b := range row.frames {
			f.Add(b, false)
			f.Add(append(append(raw(kindAlive, 1, Initial, ""), 0xff), b...), true)
		}
	}
	f.Add([]byte("\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00x"), true)
	f.Fuzz(func(t *testing.T, all []byte, accepted bool) {
		all = all[:min(len(all), 1<<16)] // more says nothing new
		n := newNetwork(1 << 20)
		p := NewPort(n, "a", Config{Beat: time.Hour, MaxItem: 1 << 20})
		note := func([]byte) error { return nil }
		var fl *Flow
		var err error
		if accepted {
			fl, err = p.Accept("b.x", Initial, time.Hour, note)
		} else if fl, err = p.Open("b.", note); err == nil {
			p.Deliver(fl.name, raw(kindAccept, 1, Initial, "b.x"), false)
		}
		require.NoError(t, err)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		for len(all) > 0 && fl.Err() == nil { // messages end with a byte that is too large for a kind
			i := bytes.IndexByte(all, 0xff)
			b := all
			if all = nil; i >= 0 {
				b, all = b[:i], b[i+1:]
			}
			if len(b) >= header { // so that more than the first one gets through
				fl.mu.Lock()
				number, granted := fl.heard+1, fl.out.granted.Load()
				fl.mu.Unlock()
				putHeader(b, b[0]%10, number, granted+int64(b[9]))
			}
			p.Deliver(fl.name, append([]byte{}, b...), false)
			fl.mu.Lock()
			held, limit := 0, int(fl.in.limit)
			for _, a := range fl.in.arrivals[fl.in.first:] {
				held += len(a.body)
			}
			fl.mu.Unlock()
			require.LessOrEqual(t, held, limit)
			if len(b)%3 == 0 {
				_, _ = fl.Receive(gone)
				_ = fl.Send(gone, b)
			}
		}
		fl.Abort(ipc.ErrClosed)
		for err = nil; err == nil; _, err = fl.Receive(gone) {
		}
		require.Zero(t, p.Len())
		require.Zero(t, p.budget.spent.Load())
	})
}

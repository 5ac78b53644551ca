package ring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// startPositions are where arithmetic on positions could go wrong.
var startPositions = []uint64{0, 1<<32 - 64, 1<<32 - 8, 1<<64 - 4096, 1<<64 - 8}

type sent struct {
	tag  byte
	data []byte
}

type kept struct {
	lease Lease
	data  []byte // in the ring
	want  []byte
}

// fill makes a payload of n bytes that depends on seed.
func fill(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	for i := n &^ 7; i < n; i++ {
		b[i] = byte(seed)
	}
	return b
}

// TestModel drives a ring and two queues, one for what is published and one for
// what is committed only, through the same random operations.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := MinSize << rapid.IntRange(0, 2).Draw(t, "size")
		start := rapid.SampledFrom(startPositions).Draw(t, "start")
		a, b := make([]byte, ControlSize+size), make([]byte, ControlSize+MinSize)
		require.NoError(t, Format(a, start))
		require.NoError(t, Format(b, 0))
		p, _, err := Join(a, b)
		require.NoError(t, err)
		_, c, err := Join(b, a)
		require.NoError(t, err)

		var pending, visible []sent
		var leases []kept
		var held *sent
		var heldData []byte
		seed := uint64(0)
		tag := func() byte { return byte(rapid.IntRange(0, 255).Draw(t, "tag")) }
		length := func() int {
			n := rapid.SampledFrom([]int{0, 1, 8, 60, 300, 1000, p.MaxRecord()}).Draw(t, "about")
			return rapid.IntRange(0, n).Draw(t, "length")
		}
		payload := func() []byte { seed++; return fill(length(), seed) }
		publish := func() { visible, pending = append(visible, pending...), nil }
		fullOr := func(err error) bool {
			if err != nil {
				require.ErrorIs(t, err, ErrFull)
			}
			return err == nil
		}
		read := func() bool {
			r, ok, err := c.Next()
			require.NoError(t, err)
			held = nil
			require.Equal(t, len(visible) > 0, ok, "visible records: %d", len(visible))
			if ok {
				require.Equal(t, visible[0].tag, r.Tag)
				require.True(t, bytes.Equal(visible[0].data, r.Data))
				held, heldData, visible = &visible[0], r.Data, visible[1:]
			}
			return ok
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(*rapid.T) {
				data := payload()
				claim := len(data) + rapid.IntRange(0, 40).Draw(t, "more")
				if claim > p.MaxRecord() {
					_, err := p.TryClaim(claim)
					require.ErrorIs(t, err, ErrTooLarge)
					return
				}
				buf, err := p.TryClaim(claim)
				if !fullOr(err) {
					return
				}
				require.Len(t, buf, claim)
				copy(buf, data)
				if rapid.IntRange(0, 3).Draw(t, "abort") == 0 {
					p.Abort()
					return
				}
				g := tag()
				p.Commit(g, len(data))
				pending = append(pending, sent{g, data})
			},
			"append": func(*rapid.T) {
				data, g := payload(), tag()
				if fullOr(p.Append(g, data)) {
					pending = append(pending, sent{g, data})
				}
			},
			"write": func(*rapid.T) {
				data, g := payload(), tag()
				if fullOr(p.Write(g, data)) {
					pending = append(pending, sent{g, data})
					publish()
				}
			},
			"send": func(*rapid.T) {
				data, g := payload(), tag()
				cut := rapid.IntRange(0, len(data)).Draw(t, "cut")
				if len(data) > int(p.whole()) {
					return // split messages have a model of their own
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := p.Send(ctx, g, data[:cut], data[cut:]); err == nil {
					pending = append(pending, sent{g, data})
				} else {
					require.ErrorIs(t, err, context.Canceled)
				}
				publish()
			},
			"publish": func(*rapid.T) {
				require.Equal(t, len(pending) > 0, p.Pending())
				p.Publish()
				publish()
			},
			"next":  func(*rapid.T) { read() },
			"ready": func(*rapid.T) { require.Equal(t, len(visible) > 0, c.Ready()) },
			"release": func(*rapid.T) {
				c.Release()
				held = nil
			},
			"arm": func(*rapid.T) { c.Arm() },
			"lease": func(*rapid.T) {
				l := c.Lease()
				require.Equal(t, held != nil, l.c != nil)
				if held != nil {
					leases = append(leases, kept{l, heldData, held.data})
					held = nil
				}
			},
			"releaseLease": func(*rapid.T) {
				if len(leases) == 0 {
					return
				}
				i := rapid.IntRange(0, len(leases)-1).Draw(t, "which")
				leases[i].lease.Release()
				leases[i].lease.Release()
				leases = append(leases[:i], leases[i+1:]...)
			},
			"drain": func(*rapid.T) {
				p.Publish()
				publish()
				for read() {
				}
				if len(leases) == 0 {
					// All of an empty ring can be had, and is
					// noticed by one more poll.
					if _, err := p.TryClaim(p.MaxRecord()); err != nil {
						require.ErrorIs(t, err, ErrFull)
						read()
						_, err = p.TryClaim(p.MaxRecord())
						require.NoError(t, err)
					}
					p.Abort()
				}
			},
			"": func(*rapid.T) {
				for _, l := range leases {
					require.True(t, bytes.Equal(l.want, l.data), "leased record was overwritten")
				}
				if held != nil {
					require.True(t, bytes.Equal(held.data, heldData), "record was overwritten while it was held")
				}
			},
		})
	})
}

// TestMessageModel sends messages of all sizes through a small ring, abandons
// some half-way, and compares what arrives.
func TestMessageModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SampledFrom(startPositions).Draw(t, "start")
		a, b := make([]byte, ControlSize+MinSize), make([]byte, ControlSize+MinSize)
		require.NoError(t, Format(a, start))
		require.NoError(t, Format(b, 0))
		p, _, err := Join(a, b)
		require.NoError(t, err)
		_, c, err := Join(b, a)
		require.NoError(t, err)
		p.SetWait(WaitPark)
		canceled, cancel := context.WithCancel(context.Background())
		cancel()

		var want []sent
		abandoned := false
		discards := uint64(0)
		check := func(m Message) {
			require.NotEmpty(t, want)
			require.Equal(t, want[0].tag, m.Tag)
			require.True(t, bytes.Equal(want[0].data, m.Data))
			require.Equal(t, len(m.Data) > int(p.whole()), m.Owned)
			want = want[1:]
		}
		drain := func() {
			for {
				m, ok, err := c.Message()
				require.NoError(t, err)
				if !ok {
					return
				}
				check(m)
			}
		}
		for i := range rapid.IntRange(1, 30).Draw(t, "messages") {
			n := rapid.SampledFrom([]int{0, 10, 700, 1007, 1008, 1009, 3000, 20000}).Draw(t, "size")
			data := fill(n, uint64(i))
			g := byte(i)
			cut := rapid.IntRange(0, n).Draw(t, "cut")
			head, body := data[:cut], data[cut:]
			before := p.head
			err := p.Send(canceled, g, head, body) // gets as far as there is room
			switch {
			case err == nil:
				want = append(want, sent{g, data})
			default:
				require.ErrorIs(t, err, context.Canceled)
			}
			if p.head != before && abandoned {
				discards++
				abandoned = false
			}
			if err != nil && p.head != before {
				abandoned = true
			}
			if rapid.Bool().Draw(t, "drain") {
				drain()
			}
		}
		drain()
		if abandoned {
			require.NoError(t, p.Write(1, []byte("end")))
			want = append(want, sent{1, []byte("end")})
			discards++
			drain()
		}
		require.Empty(t, want)
		require.Equal(t, discards, c.Discarded())
	})
}

func TestMisusePanics(t *testing.T) {
	p, c := newPair(t, MinSize, 0)
	_, err := p.TryClaim(5)
	require.NoError(t, err)
	for name, f := range map[string]func(){
		"claim":             func() { p.TryClaim(1) },
		"append":            func() { p.Append(1, nil) },
		"write":             func() { p.Write(1, make([]byte, 3000)) },
		"send":              func() { p.Send(context.Background(), 1, nil, nil) },
		"wait":              func() { p.WaitSpace(context.Background(), 1) },
		"commit beyond":     func() { p.Commit(1, 6) },
		"commit negative":   func() { p.Commit(1, -1) },
		"interrupt nil":     func() { p.Interrupt(nil) },
		"interrupt nil too": func() { c.Interrupt(nil) },
		"strategy":          func() { p.SetWait(3) },
		"max":               func() { p.SetMaxMessage(-1) },
	} {
		require.Panics(t, f, name)
	}
	p.Commit(1, 5)
	require.Panics(t, func() { p.Commit(1, 0) })
	require.Panics(t, func() { p.Abort() })
	require.Panics(t, func() { p.TryClaim(-1) })
	require.Panics(t, func() { p.TryClaim(-100) })
}

func TestTooLarge(t *testing.T) {
	p, _ := newPair(t, MinSize, 0)
	require.Equal(t, 2040, p.MaxRecord())
	_, err := p.TryClaim(2041)
	var size *SizeError
	require.True(t, errors.As(err, &size))
	require.EqualError(t, err, "tandem: ring: record of 2041 bytes, largest allowed 2040")
	require.ErrorIs(t, p.Append(1, make([]byte, 5000)), ErrTooLarge)
	require.ErrorIs(t, p.WaitSpace(context.Background(), math.MaxInt), ErrTooLarge)
	p.SetMaxMessage(100)
	err = p.Send(context.Background(), 1, make([]byte, 60), make([]byte, 41))
	require.EqualError(t, err, "tandem: ring: message of 101 bytes, largest allowed 100")
	require.NoError(t, p.Send(context.Background(), 1, make([]byte, 60), make([]byte, 40)))
}

package ring

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzJoin joins a segment whose control area is anything, and then uses both ends. What
// is not refused as a layout must work, or be corrupt.
func FuzzJoin(f *testing.F) {
	good := newSegment(f, MinSize, 64)
	f.Add(good[:offSpaceBell+4], uint64(0))
	f.Add(good[:offConsumerPosition+8], uint64(8))
	for _, off := range []int{offMagic, offVersion, offSize, offStart, offConsumerPosition, offDataWaiting, offSpaceWaiting} {
		for _, v := range []uint64{0, 1, 8, 1<<64 - 1} {
			bad := append([]byte(nil), good[:offSpaceBell+4]...)
			binary.NativeEndian.PutUint64(bad[off:], v)
			f.Add(bad, uint64(1<<64-64))
		}
	}
	f.Fuzz(func(t *testing.T, control []byte, start uint64) {
		ours, theirs := newSegment(t, MinSize, start&^(align-1)), newSegment(t, MinSize, 0)
		copy(theirs[:ControlSize], control)
		p, c, err := Join(ours, theirs)
		if err != nil {
			require.ErrorIs(t, err, ErrLayout)
			return
		}
		useBoth(t, p, c)
	})
}

// useBoth does what a link does.
func useBoth(t *testing.T, p *Producer, c *Consumer) {
	t.Helper()
	ended, end := context.WithCancel(context.Background())
	end()
	for range 5 {
		err := p.Send(ended, 1, []byte("head"), make([]byte, 700))
		if err != nil && !errors.Is(err, context.Canceled) {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		checkProducer(t, p)
		if _, _, err := c.Message(); err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		c.Arm()
		c.Ready()
		c.Disarm()
	}
}

// checkProducer checks that what a peer has written has not made p overwrite what is
// unread: the room that it believes in fits the ring.
func checkProducer(t *testing.T, p *Producer) {
	t.Helper()
	if p.err == nil {
		require.LessOrEqual(t, p.limit-p.pos, p.size)
		require.LessOrEqual(t, p.head-p.consumed, p.size)
	}
}

// FuzzChangingMemory reads and writes rings while the peer's memory changes between any
// two operations. Each step of the script takes 4 bytes: what to do, where, and with what.
func FuzzChangingMemory(f *testing.F) {
	seed := func(steps ...byte) { f.Add(steps) }
	seed(stepHonest, 1, 0, 8, stepNext, 0, 0, 0, stepHonest, 2, 4, 200, stepMessage, 0, 0, 0)
	seed(stepWrite, 255, 255, 255, stepControl, offConsumerPosition/8, 0, 1, stepWrite, 255, 0, 0, stepControl, offConsumerPosition/8, 1, 255, stepSend, 0, 0, 0)
	seed(stepHonest, 1, 0, 8, stepNext, 0, 0, 0, stepLease, 0, 0, 0, stepPut, 0, 0, 255, stepNext, 0, 0, 0, stepRelease, 0, 0, 0)
	seed(stepHonest, 1, 1, 255, stepPut, 0, 1, 1, stepMessage, 0, 0, 0, stepControl, offSpaceWaiting/8, 0, 1, stepRelease, 0, 0, 0, stepArm, 0, 0, 0)
	seed(stepControl, offDataWaiting/8, 0, 1, stepWrite, 1, 1, 1, stepControl, offDataBell/8, 7, 7, stepArm, 0, 0, 0, stepSpin, 0, 0, 0, stepDisarm, 0, 0, 0, stepIdle, 0, 0, 0)
	f.Fuzz(changing)
}

// The steps of changing.
const (
	stepNext = iota
	stepMessage
	stepLease
	stepRelease
	stepWrite
	stepSend
	stepArm
	stepDisarm
	stepSpin
	stepIdle
	stepPut
	stepHonest
	stepControl
	steps
)

// changing does what a script says.
func changing(t *testing.T, script []byte) {
	ours, theirs := newSegment(t, MinSize, 1<<64-MinSize/2), newSegment(t, MinSize, 1<<32-64)
	peer, _, err := Join(theirs, ours)
	require.NoError(t, err)
	p, c, err := Join(ours, theirs)
	require.NoError(t, err)
	c.SetMaxMessage(10_000)
	ended, end := context.WithCancel(context.Background())
	end()
	var leases []Lease
	corrupt := func(err error) {
		if err != nil && err != ErrFull && !errors.Is(err, context.Canceled) {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	}
	ring := theirs[ControlSize:]
	inside := func(b []byte) {
		if len(b) > 0 {
			require.Less(t, address(b)-address(ring), uintptr(MinSize))
			require.LessOrEqual(t, address(b)-address(ring)+uintptr(len(b)), uintptr(MinSize))
		}
	}
	for ; len(script) >= 4; script = script[4:] {
		what, a, b, v := script[0]%steps, int(script[1]), int(script[2]), script[3]
		switch what {
		case stepNext:
			r, _, err := c.Next()
			corrupt(err)
			inside(r.Data)
		case stepMessage:
			m, _, err := c.Message()
			corrupt(err)
			if !m.Owned {
				inside(m.Data)
			}
		case stepLease:
			leases = append(leases, c.Lease())
		case stepRelease:
			for _, l := range leases {
				l.Release()
			}
			leases = nil
		case stepWrite:
			corrupt(p.Write(v, make([]byte, a*b%int(p.half-wordSize))))
		case stepSend:
			corrupt(p.Send(ended, v, make([]byte, a), make([]byte, b*16)))
		case stepArm:
			c.Arm()
		case stepDisarm:
			c.Disarm()
		case stepSpin:
			c.Spin()
		case stepIdle:
			c.Release()
		case stepPut: // near where the consumer looks
			off := (int(c.next%MinSize) + a*8) % MinSize
			binary.NativeEndian.PutUint64(ring[off:], word(c.next+uint64(a)*8, byte(b), v, uint64(v)))
		case stepHonest:
			if peer.pos-peer.consumed < MinSize/2 {
				_ = peer.appendSlow(byte(b)&(flagMore|flagCont), byte(a), make([]byte, int(v)), nil)
				peer.Publish()
			}
		case stepControl:
			off := a * 8 % (offSpaceBell + 8)
			binary.NativeEndian.PutUint64(theirs[off:], binary.NativeEndian.Uint64(theirs[off:])+uint64(int8(b))*uint64(v))
		}
		checkProducer(t, p)
		require.LessOrEqual(t, c.next-c.start, uint64(MinSize))
	}
	for _, l := range leases {
		l.Release()
	}
}

package ring

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// atProcs runs f at GOMAXPROCS 1, 2 and 4.
func atProcs(t *testing.T, f func(t *testing.T)) {
	for _, n := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("procs=%d", n), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
			f(t)
		})
	}
}

// watchdog panics, with all stacks, if the test hangs. No assertion depends on
// its time.
func watchdog(t *testing.T) context.Context {
	timer := time.AfterFunc(2*time.Minute, func() {
		buf := make([]byte, 1<<20)
		panic("hangs:\n" + string(buf[:runtime.Stack(buf, true)]))
	})
	t.Cleanup(func() { timer.Stop() })
	return context.Background()
}

// scaled is n, or less where the race detector makes everything slow.
func scaled(n int) int {
	if raceEnabled || testing.Short() {
		return n / 10
	}
	return n
}

// produce sends count records of random sizes in random ways: a checksum, a
// number, and bytes.
func produce(ctx context.Context, p *Producer, count int, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 2))
	buf := make([]byte, 2000)
	for i := range count {
		n := 12 + r.IntN(100)
		if r.IntN(50) == 0 {
			n = 12 + r.IntN(900) // larger ones are split, see TestConcurrentMessages
		}
		b := buf[:n]
		binary.LittleEndian.PutUint64(b[4:], uint64(i))
		for j := 12; j < n; j++ {
			b[j] = byte(i + j)
		}
		binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
		var err error
		switch how := r.IntN(4); how {
		case 0:
			err = p.Send(ctx, byte(i), b[:12], b[12:])
		case 1:
			err = p.SendBatched(ctx, byte(i), b, nil)
		case 2:
			if err = p.WaitSpace(ctx, n+50); err == nil {
				var mem []byte
				if mem, err = p.TryClaim(n + 50); err == nil {
					if r.IntN(4) == 0 {
						p.Abort()
						err = p.Send(ctx, byte(i), b, nil)
					} else {
						p.Commit(byte(i), copy(mem, b))
					}
				}
			}
		case 3:
			// Polling for space without waiting has to end, too.
			for {
				if err = p.Append(byte(i), b); !errors.Is(err, ErrFull) {
					break
				}
				p.Publish()
				runtime.Gosched()
			}
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if r.IntN(10) == 0 {
			p.Publish()
		}
	}
	p.Publish()
	return nil
}

func checkRecord(r Record, i int) error {
	if len(r.Data) < 12 || r.Tag != byte(i) {
		return fmt.Errorf("record %d: %d bytes, tag %d", i, len(r.Data), r.Tag)
	}
	if n := binary.LittleEndian.Uint64(r.Data[4:]); n != uint64(i) {
		return fmt.Errorf("record %d: has number %d", i, n)
	}
	if crc32.ChecksumIEEE(r.Data[4:]) != binary.LittleEndian.Uint32(r.Data) {
		return fmt.Errorf("record %d: checksum", i)
	}
	return nil
}

func consume(ctx context.Context, c *Consumer, count int, each func(i int, r Record)) error {
	for i := 0; i < count; {
		r, ok, err := c.Next()
		if err != nil {
			return err
		}
		if !ok {
			if err := c.Wait(ctx); err != nil {
				return err
			}
			continue
		}
		if err := checkRecord(r, i); err != nil {
			return err
		}
		if each != nil {
			each(i, r)
		}
		i++
	}
	return nil
}

func TestConcurrent(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		for _, wait := range []Wait{WaitAdaptive, WaitPark, WaitSpin} {
			for _, start := range []uint64{0, 1<<32 - 64, 1<<64 - 64} {
				t.Run(fmt.Sprintf("%v/%d", wait, start), func(t *testing.T) {
					ctx := watchdog(t)
					p, c := newPair(t, MinSize, start)
					p.SetWait(wait)
					c.SetWait(wait)
					count := scaled(30000)
					done := make(chan error, 1)
					go func() { done <- produce(ctx, p, count, start+7) }()
					require.NoError(t, consume(ctx, c, count, nil))
					require.NoError(t, <-done)
				})
			}
		}
	})
}

// TestConcurrentLeases releases from other goroutines, out of order, while the
// reader goes on.
func TestConcurrentLeases(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		p, c := newPair(t, MinSize, 1<<64-64)
		count := scaled(20000)
		produced := make(chan error, 1)
		go func() { produced <- produce(ctx, p, count, 3) }()
		type job struct {
			i int
			r Record
			l Lease
		}
		jobs := make(chan job, 3)
		var wg sync.WaitGroup
		errs := make(chan error, 4)
		for range 4 {
			wg.Go(func() {
				var err error
				for j := range jobs {
					if err == nil {
						err = checkRecord(j.r, j.i)
					}
					j.l.Release()
				}
				errs <- err
			})
		}
		require.NoError(t, consume(ctx, c, count, func(i int, r Record) {
			if i%3 != 0 {
				jobs <- job{i, r, c.Lease()}
			}
		}))
		close(jobs)
		wg.Wait()
		for range 4 {
			require.NoError(t, <-errs)
		}
		require.NoError(t, <-produced)
		// Everything is given back.
		_, ok, err := c.Next()
		require.False(t, ok)
		require.NoError(t, err)
		require.NoError(t, p.WaitSpace(ctx, p.MaxRecord()-2000))
	})
}

// TestConcurrentMessages streams messages that are larger than the ring.
func TestConcurrentMessages(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		p, c := newPair(t, MinSize, 1<<32-8)
		count := scaled(3000)
		done := make(chan error, 1)
		go func() {
			for i := range count {
				data := fill(i*37%30000, uint64(i))
				if err := p.Send(ctx, byte(i), data[:len(data)/3], data[len(data)/3:]); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for i := 0; i < count; {
			m, ok, err := c.Message()
			require.NoError(t, err)
			if !ok {
				require.NoError(t, c.Wait(ctx))
				continue
			}
			require.Equal(t, byte(i), m.Tag)
			require.Equal(t, fill(i*37%30000, uint64(i)), m.Data)
			i++
		}
		require.NoError(t, <-done)
		require.Zero(t, c.Discarded())
	})
}

// TestNoLostWakeUp goes through as many park and ring cycles as possible: each
// side parks for every record.
func TestNoLostWakeUp(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
		pa, ca, err := Join(a, b)
		require.NoError(t, err)
		pb, cb, err := Join(b, a)
		require.NoError(t, err)
		ca.SetWait(WaitPark)
		cb.SetWait(WaitPark)
		count := scaled(20000)
		bounce := func(p *Producer, c *Consumer, first bool) error {
			for i := 0; i < count; i++ {
				if first || i > 0 {
					if err := p.Send(ctx, byte(i), nil, nil); err != nil {
						return err
					}
				}
				for {
					_, ok, err := c.Next()
					if err != nil {
						return err
					}
					if ok {
						break
					}
					if err := c.Wait(ctx); err != nil {
						return err
					}
				}
			}
			if !first {
				return p.Send(ctx, 0, nil, nil)
			}
			return nil
		}
		done := make(chan error, 1)
		go func() { done <- bounce(pb, cb, false) }()
		require.NoError(t, bounce(pa, ca, true))
		require.NoError(t, <-done)
	})
}

// TestNoLostSpace: both sides park for every record, as each fills the ring.
func TestNoLostSpace(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		p, c := newPair(t, MinSize, 0)
		p.SetWait(WaitPark)
		c.SetWait(WaitPark)
		count := scaled(20000)
		done := make(chan error, 1)
		go func() {
			data := make([]byte, p.MaxRecord())
			for range count {
				if err := p.WaitSpace(ctx, len(data)); err != nil {
					done <- err
					return
				}
				if err := p.Write(0, data); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for range count {
			for {
				_, ok, err := c.Next()
				require.NoError(t, err)
				if ok {
					break
				}
				require.NoError(t, c.Wait(ctx))
			}
		}
		c.Release()
		require.NoError(t, <-done)
	})
}

// TestRoles has one goroutine that only sleeps, and readers that come and go
// with the role, as the layers above use the ring.
func TestRoles(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		p, c := newPair(t, MinSize, 1<<64-8)
		p.SetWait(WaitPark)
		count := scaled(20000)
		produced := make(chan error, 1)
		go func() { produced <- produce(ctx, p, count, 5) }()

		role := make(chan struct{}, 1)
		var read int
		var failed error
		// turn takes the role, if it is free, and reads what is there.
		turn := func() (finished bool) {
			select {
			case role <- struct{}{}:
			default:
				return false
			}
			defer func() { <-role }()
			c.Disarm()
			for read < count && failed == nil {
				r, ok, err := c.Next()
				if err != nil {
					failed = err
				} else if ok {
					failed = checkRecord(r, read)
					read++
				} else if c.Arm(); !c.Ready() {
					return false
				} else {
					c.Disarm()
				}
			}
			c.Release()
			return true
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // comes and goes
			for {
				select {
				case <-stop:
					return
				default:
					if turn() {
						c.Wake()
						return
					}
					runtime.Gosched()
				}
			}
		})
		for !turn() {
			c.Sleep(c.Ready)
		}
		close(stop)
		wg.Wait()
		require.NoError(t, failed)
		require.Equal(t, count, read)
		require.NoError(t, <-produced)
	})
}

// TestArmThenSleep bounces records between two readers that poll a little, arm,
// and then sleep: that is, the bell is loaded after arming.
func TestArmThenSleep(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		ctx := watchdog(t)
		a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
		pa, ca, err := Join(a, b)
		require.NoError(t, err)
		pb, cb, err := Join(b, a)
		require.NoError(t, err)
		count := scaled(30000)
		receive := func(c *Consumer, polls int) error {
			for i := 0; ; i++ {
				_, ok, err := c.Next()
				if ok || err != nil {
					return err
				}
				if i < polls {
					continue
				}
				c.Arm()
				if !c.Ready() {
					c.Sleep(c.Ready)
				}
				c.Disarm()
				i = 0
			}
		}
		done := make(chan error, 1)
		go func() {
			for i := range count {
				if err := errors.Join(receive(cb, i%200), pb.Send(ctx, 0, nil, nil)); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for i := range count {
			require.NoError(t, pa.Send(ctx, 0, nil, nil))
			require.NoError(t, receive(ca, i%170))
		}
		require.NoError(t, <-done)
	})
}

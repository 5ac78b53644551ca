package ipc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

var counting = ipc.NewTopic[uint64]("topic_test.counting")

func publisher[T any](t testing.TB, topic *ipc.Topic[T], l *loop, opts ...ipc.PublisherOption) *ipc.Publisher[T] {
	t.Helper()
	p, err := topic.Publisher(l, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func open[T any](t testing.TB, topic *ipc.Topic[T], l *loop, opts ...ipc.SubscribeOption) *ipc.Subscription[T] {
	t.Helper()
	s, err := topic.Open(context.Background(), l, opts...)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// Whatever the speeds of subscribers, each sees the records in order, and is told of exactly those that it
// does not see, up to the last one.
func TestTopicLosesWhatItTells(t *testing.T) {
	const subscribers, records = 64, 20_000
	for _, keep := range []int{1, 2, 7, 100, records} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			l := newLoop(t, 4)
			p := publisher(t, counting, l, ipc.Keep(keep))
			var wg sync.WaitGroup
			var mu sync.Mutex
			var received, lost uint64
			for i := range subscribers {
				s := open(t, counting, l)
				random := rand.New(rand.NewPCG(uint64(i), uint64(keep)))
				f := follower{next: 1}
				wg.Go(func() {
					err := f.all(t, s, func() {
						for range random.IntN(i + 1) {
							runtime.Gosched()
						}
					})
					assert.NoError(t, err)
					assert.Equal(t, uint64(records+1), f.next, "all are seen or told")
					assert.Equal(t, ipc.SubscriptionStats{Received: f.received, Lost: f.lost}, s.Stats())
					mu.Lock()
					received, lost = received+f.received, lost+f.lost
					mu.Unlock()
				})
			}
			require.Equal(t, subscribers, p.Stats().Subscribers)
			for n := range uint64(records) {
				require.NoError(t, p.Publish(t.Context(), n+1))
			}
			require.NoError(t, p.Close())
			require.ErrorIs(t, p.Publish(t.Context(), 0), ipc.ErrClosed)
			wg.Wait()
			l.serving.Wait()
			st := p.Stats()
			require.Equal(t, lost, st.Lost)
			require.Equal(t, uint64(subscribers*records), received+lost)
			require.Zero(t, st.Subscribers)
			require.Equal(t, uint64(records), st.Published)
			require.Equal(t, min(keep, records), st.Kept)
			if keep == records {
				require.Zero(t, lost)
			}
		})
	}
}

// Reliable subscribers get everything, however slow they are, beside others that lose something.
func TestTopicReliable(t *testing.T) {
	const records = 5000
	for _, keep := range []int{1, 3, 64} {
		l := newLoop(t, 2)
		p := publisher(t, counting, l, ipc.Keep(keep), ipc.CutOffAfter(time.Hour))
		var wg sync.WaitGroup
		for i := range 12 {
			var opts []ipc.SubscribeOption
			if i%3 != 0 {
				opts = append(opts, ipc.Reliable())
			}
			s := open(t, counting, l, opts...)
			wg.Go(func() {
				f := follower{next: 1}
				assert.NoError(t, f.all(t, s, func() {
					for range i {
						runtime.Gosched()
					}
				}))
				assert.Equal(t, uint64(records+1), f.next)
				if i%3 != 0 {
					assert.Zero(t, f.lost)
				}
			})
		}
		require.Equal(t, 8, p.Stats().Reliable)
		for n := range uint64(records) {
			require.NoError(t, p.Publish(t.Context(), n+1))
		}
		require.NoError(t, p.Close())
		wg.Wait()
		require.Zero(t, p.Stats().CutOff)
	}
}

// A reliable subscriber that takes nothing is cut off when its time is over, and told, after what it had got. The others
// lose nothing, and nobody waits again.
func TestTopicCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(t, 3)
		p := publisher(t, counting, l, ipc.Keep(4), ipc.CutOffAfter(time.Minute))
		stuck := []*ipc.Subscription[uint64]{open(t, counting, l, ipc.Reliable()), open(t, counting, l, ipc.Reliable())}
		lossy := open(t, counting, l)
		good := open(t, counting, l, ipc.Reliable())
		var wg sync.WaitGroup
		wg.Go(func() {
			f := follower{next: 1}
			assert.NoError(t, f.all(t, good, nil))
			assert.Equal(t, uint64(201), f.next)
			assert.Zero(t, f.lost)
		})
		began, n := time.Now(), uint64(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for ; ctx.Err() == nil; n++ {
			synctest.Wait() // all have taken what there is, so both are stuck at the same record
			if err := p.Publish(ctx, n+1); err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				break
			}
		}
		require.Equal(t, n, p.Stats().Published, "what a context keeps from being published is not published")
		require.Equal(t, time.Second, time.Since(began))
		for ; n < 200; n++ {
			require.NoError(t, p.Publish(t.Context(), n+1))
		}
		require.Equal(t, time.Minute+time.Second, time.Since(began), "both at once, once")
		st := p.Stats()
		require.Equal(t, uint64(2), st.CutOff)
		require.Equal(t, 1, st.Reliable)
		require.Equal(t, 2, st.Subscribers)
		require.NoError(t, p.Close())
		for _, s := range stuck {
			f := follower{next: 1}
			err := f.all(t, s, nil)
			require.ErrorIs(t, err, ipc.ErrCutOff)
			require.Equal(t, ipc.CodeAborted, ipc.CodeOf(err))
			require.NotZero(t, f.received)
			require.Zero(t, f.lost)
		}
		f := follower{next: 1}
		require.NoError(t, f.all(t, lossy, nil))
		require.Equal(t, uint64(201), f.next)
		require.NotZero(t, f.lost)
		wg.Wait()
	})
}

// A reliable subscriber that leaves, or a publisher that is closed, holds up nobody.
func TestTopicPublishGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(t, 1)
		p := publisher(t, counting, l, ipc.Keep(1), ipc.CutOffAfter(time.Hour))
		fill := func() chan error { // returns when Publish waits
			published := make(chan error, 1)
			go func() {
				for {
					if err := p.Publish(context.Background(), 1); err != nil {
						published <- err
						return
					}
				}
			}()
			synctest.Wait()
			return published
		}
		s := open(t, counting, l, ipc.Reliable())
		began := time.Now()
		published := fill()
		before := p.Stats().Published
		s.Close() // Publish goes on, until there is another one that stops it
		s = nil
		for s == nil {
			s, _ = counting.Open(context.Background(), l, ipc.Reliable())
		}
		synctest.Wait()
		require.Greater(t, p.Stats().Published, before)
		require.NoError(t, p.Close())
		require.ErrorIs(t, <-published, ipc.ErrClosed)
		require.Equal(t, began, time.Now())
		require.Zero(t, p.Stats().CutOff)
		s.Close()
	})
}

type update struct {
	Key     string
	Version int
}

var state = ipc.NewTopic[update]("topic_test.state", ipc.LatestBy(func(u update) string { return u.Key }))

// Who begins with the latest record of each key gets, for each key, one version and then each later one: nothing is
// missing, and nothing comes twice.
func TestTopicFromLatest(t *testing.T) {
	const keys, publishers, rounds = 50, 4, 400
	l := newLoop(t, 8)
	p := publisher(t, state, l, ipc.Keep(16), ipc.CutOffAfter(time.Hour))
	var publishing, following sync.WaitGroup
	versions := make([]map[string]int, publishers)
	for i := range publishers {
		versions[i] = make(map[string]int)
		random := rand.New(rand.NewPCG(1, uint64(i)))
		publishing.Go(func() {
			for range rounds {
				key := fmt.Sprintf("%d.%d", i, random.IntN(keys))
				versions[i][key]++
				assert.NoError(t, p.Publish(t.Context(), update{key, versions[i][key]}))
				if random.IntN(20) == 0 {
					following.Go(func() { followState(t, l) })
				}
			}
		})
	}
	publishing.Wait()
	following.Go(func() { followState(t, l) })
	total := make(map[string]int)
	for _, v := range versions {
		for key, version := range v {
			total[key] = version
		}
	}
	require.Equal(t, len(total), p.Stats().Keys)
	late := open(t, state, l, ipc.FromLatest())
	require.NoError(t, p.Close())
	got := make(map[string]int)
	for u, err := range late.All(t.Context()) {
		require.NoError(t, err)
		require.NotContains(t, got, u.Key)
		got[u.Key] = u.Version
	}
	require.Equal(t, total, got)
	following.Wait()
}

func followState(t *testing.T, l *loop) {
	seen := make(map[string]int)
	s, err := state.Open(context.Background(), l, ipc.FromLatest(), ipc.Reliable())
	if ipc.CodeOf(err) == ipc.CodeUnimplemented {
		return // the publisher was closed meanwhile
	}
	if !assert.NoError(t, err) {
		return
	}
	for u, err := range s.All(context.Background()) {
		if !assert.NoError(t, err) {
			return
		}
		if last, ok := seen[u.Key]; ok {
			assert.Equal(t, last+1, u.Version, u.Key)
		}
		seen[u.Key] = u.Version
	}
}

// Late joiners get what is kept: so many records, and no more bytes than that, but for the last one.
func TestTopicKeep(t *testing.T) {
	raw := ipc.NewTopic[[]byte]("topic_test.raw", ipc.WithCodec(ipc.Raw))
	random := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		l := newLoop(t, 4)
		keep, keepBytes := 1+random.IntN(40), 4096+random.IntN(4000)
		p := publisher(t, raw, l, ipc.Keep(keep), ipc.KeepBytes(keepBytes))
		var kept [][]byte
		size := 0
		for i := range random.IntN(200) {
			b := make([]byte, random.IntN(2000))
			for j := range b {
				b[j] = byte(i)
			}
			require.NoError(t, p.Publish(t.Context(), b))
			kept = append(kept, slices.Clone(b))
			clear(b) // Publish keeps nothing of it
			size += len(b) + 8
			for len(kept) > keep || size > keepBytes && len(kept) > 1 {
				size -= len(kept[0]) + 8
				kept = kept[1:]
			}
			require.Equal(t, len(kept), p.Stats().Kept)
			require.Equal(t, size-8*len(kept), p.Stats().KeptBytes)
		}
		s, now := open(t, raw, l, ipc.FromOldest()), open(t, raw, l)
		require.NoError(t, p.Close())
		var got [][]byte
		for b, err := range s.All(t.Context()) {
			require.NoError(t, err)
			got = append(got, slices.Clone(b))
		}
		require.Equal(t, len(kept), len(got))
		for i := range kept {
			require.Equal(t, kept[i], append([]byte{}, got[i]...))
		}
		for range now.All(t.Context()) {
			t.Fatal("a record from before")
		}
		p = publisher(t, raw, l, ipc.KeepBytes(keepBytes))
		require.NoError(t, p.Publish(t.Context(), make([]byte, keepBytes/2-16)))
		err := p.Publish(t.Context(), make([]byte, keepBytes/2-15))
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
		require.Equal(t, uint64(1), p.Stats().Published)
	}
}

// Subscribers that come and go leave nothing, whether records come or not.
func TestTopicComeAndGo(t *testing.T) {
	l := newLoop(t, 2)
	p := publisher(t, counting, l, ipc.Keep(2), ipc.CutOffAfter(time.Hour))
	runtime.GC()
	before := runtime.NumGoroutine()
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		opts := [][]ipc.SubscribeOption{nil, {ipc.Reliable()}, {ipc.FromOldest()}}[i%3]
		s, err := counting.Open(ctx, l, opts...)
		require.NoError(t, err)
		if i%2 == 0 {
			require.NoError(t, p.Publish(t.Context(), 1))
			_, err = s.Receive(t.Context())
			if _, lost := err.(*ipc.LostError); lost { // the oldest of those that were kept, unless it was sent already
				require.Equal(t, 2, i%3)
				_, err = s.Receive(t.Context())
			}
			require.NoError(t, err)
			s.Close()
			_, err = s.Receive(t.Context())
			require.ErrorIs(t, err, ipc.ErrClosed)
		}
		cancel()
		if _, err = s.Receive(t.Context()); i%2 != 0 && i%3 != 2 {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	eventually(t, func() bool { return p.Stats().Subscribers == 0 && runtime.NumGoroutine() <= before })
	require.Zero(t, p.Stats().Lag)
	require.NoError(t, p.Publish(t.Context(), 2))
}

// Only a sequence's last error ends it; leaving the loop ends the subscription.
func TestTopicSubscribe(t *testing.T) {
	l := newLoop(t, 1)
	for _, err := range counting.Subscribe(t.Context(), l) {
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
	}
	p := publisher(t, counting, l, ipc.Keep(3))
	for _, opt := range []ipc.SubscribeOption{ipc.Reliable(), ipc.FromLatest()} {
		_, err := counting.Open(t.Context(), l, opt)
		require.Equal(t, ipc.CodeFailedPrecondition, ipc.CodeOf(err))
	}
	require.Zero(t, p.Stats().Subscribers)
	for n := range uint64(10) {
		require.NoError(t, p.Publish(t.Context(), n))
	}
	var got []uint64
	for n, err := range counting.Subscribe(t.Context(), l, ipc.FromOldest()) {
		require.NoError(t, err)
		if got = append(got, n); n == 9 {
			break
		}
	}
	require.Equal(t, []uint64{7, 8, 9}, got)
	eventually(t, func() bool { return p.Stats().Subscribers == 0 })
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	again := publisher(t, counting, l) // the topic is free
	require.Panics(t, func() { counting.Publisher(l) })
	require.NoError(t, again.Publish(t.Context(), 1))
}

// Declarations that cannot work are refused.
func TestTopicDeclarations(t *testing.T) {
	type padded struct {
		A uint8
		B uint64
	}
	type withBuffer struct{ Pixels []ipc.Buffer }
	for name, declare := range map[string]func(){
		"no name":        func() { ipc.NewTopic[int]("") },
		"a channel":      func() { ipc.NewTopic[chan int]("x") },
		"a buffer":       func() { ipc.NewTopic[withBuffer]("x") },
		"a file":         func() { ipc.NewTopic[*struct{ F ipc.File }]("x") },
		"a raw buffer":   func() { ipc.NewTopic[ipc.Buffer]("x", ipc.WithCodec(ipc.Raw)) },
		"a handle":       func() { ipc.NewTopic[ipc.Handle]("x", ipc.WithCodec(ipc.Fixed)) },
		"padding":        func() { ipc.NewTopic[padded]("x", ipc.WithCodec(ipc.Fixed)) },
		"raw struct":     func() { ipc.NewTopic[padded]("x", ipc.WithCodec(ipc.Raw)) },
		"another key":    func() { ipc.NewTopic[int]("x", ipc.LatestBy(func(s string) string { return s })) },
		"no key":         func() { ipc.LatestBy[int, int](nil) },
		"no codec":       func() { ipc.WithCodec(nil) },
		"keeps nothing":  func() { ipc.Keep(0) },
		"keeps too much": func() { ipc.Keep(1 << 30) },
		"no bytes":       func() { ipc.KeepBytes(4095) },
		"many bytes":     func() { ipc.KeepBytes(1<<30 + 1) },
		"no wait":        func() { ipc.CutOffAfter(0) },
		"no registrar":   func() { counting.Publisher(nil) },
		"no caller":      func() { counting.Subscribe(context.Background(), nil) },
	} {
		require.Panics(t, declare, name)
	}
	_, err := counting.Open(context.Background(), inProcess[int, int](nil))
	require.ErrorIs(t, err, ipc.ErrUnsupported)
	ids := make(map[uint64]bool)
	for _, id := range []uint64{
		ipc.NewMethod[int, int]("one").Info().ID, ipc.NewBidiStream[int, int]("one").Info().ID, ipc.NewTopic[int]("one").Info().ID,
		ipc.NewTopic[int]("one", ipc.WithCodec(ipc.JSON)).Info().ID, ipc.NewTopic[int]("one", ipc.WithCodec(ipc.Fixed)).Info().ID,
		ipc.NewTopic[int32]("one", ipc.WithCodec(ipc.Fixed)).Info().ID, ipc.NewTopic[int]("two").Info().ID,
	} {
		require.False(t, ids[id])
		ids[id] = true
	}
	require.Equal(t, ipc.NewTopic[int]("one").Info(), ipc.NewTopic[int]("one", ipc.WithCodec(ipc.CBOR)).Info())
	_, err = ipc.NewTopic[any]("any").Publisher(newLoop(t, 1))
	require.NoError(t, err)
	require.Equal(t, reflect.TypeFor[*ipc.LostError](), reflect.TypeOf(&ipc.LostError{}))
}

// A record that cannot be encoded fails Publish alone; one that cannot be decoded ends the subscription that
// cannot.
func TestTopicCodecs(t *testing.T) {
	l := newLoop(t, 4)
	anything := ipc.NewTopic[any]("topic_test.any")
	small := ipc.NewTopic[any]("topic_test.any", ipc.WithMaxDecoded(1000))
	p := publisher(t, anything, l)
	s, bound := open(t, anything, l), open(t, small, l)
	err := p.Publish(t.Context(), make(chan int))
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	for _, v := range []any{"one", make([]string, 100_000), "three"} {
		require.NoError(t, p.Publish(t.Context(), v))
	}
	for _, want := range []string{"one", "", "three"} {
		v, err := s.Receive(t.Context())
		require.NoError(t, err)
		if want != "" {
			require.Equal(t, want, v)
		}
	}
	v, err := bound.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, "one", v)
	_, err = bound.Receive(t.Context())
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	eventually(t, func() bool { return p.Stats().Subscribers == 1 })
}

// What Publish allocates does not depend on the number of subscribers.
func TestTopicPublishAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	fixed := ipc.NewTopic[[8]uint64]("topic_test.fixed", ipc.WithCodec(ipc.Fixed))
	for _, subscribers := range []int{0, 1, 64} {
		l := newLoop(t, 1)
		p := publisher(t, fixed, l, ipc.Keep(16))
		for range subscribers { // that are stuck, so that what they allocate does not count
			open(t, fixed, l)
		}
		publish := func() { _ = p.Publish(context.Background(), [8]uint64{1}) }
		for range 1000 {
			publish()
		}
		eventually(t, func() bool { before := p.Stats(); runtime.Gosched(); return p.Stats() == before })
		require.LessOrEqual(t, testing.AllocsPerRun(2000, publish), 1.0, "%d subscribers", subscribers)
	}
}

// Key is the function of LatestBy, and nil without it.
func TestTopicKey(t *testing.T) {
	topic := ipc.NewTopic[string]("test.keyed", ipc.LatestBy(func(s string) int { return len(s) }))
	require.Equal(t, any(3), topic.Key()("abc"))
	require.Nil(t, ipc.NewTopic[string]("test.plain").Key())
}

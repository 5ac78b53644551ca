//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// tick is a record that shows whether it is whole.
type tick struct{ N, Key, Version, Check uint64 }

func makeTick(n, key, version uint64) tick { return tick{n, key, version, ^n*31 ^ key*17 ^ version} }

func (k tick) whole() bool { return k == makeTick(k.N, k.Key, k.Version) }

// Topics, of the worker's and of the host's.
var (
	ticks     = ipc.NewTopic[tick]("test.ticks", ipc.WithCodec(ipc.Fixed), ipc.LatestBy(func(k tick) uint64 { return k.Key }))
	hostTicks = ipc.NewTopic[tick]("test.host_ticks", ipc.WithCodec(ipc.Fixed), ipc.LatestBy(func(k tick) uint64 { return k.Key }))

	topicOpen    = ipc.NewMethod[topicOptions, int]("test.topic_open")
	topicPublish = ipc.NewMethod[publishing, ipc.PublisherStats]("test.topic_publish")
	topicClose   = ipc.NewMethod[int, ipc.PublisherStats]("test.topic_close")
	topicFollow  = ipc.NewMethod[following, followed]("test.topic_follow")
	topicFollows = ipc.NewMethod[int, []int]("test.topic_follows") // records that each has seen
)

type topicOptions struct {
	Keep, KeepBytes int
	CutOff          time.Duration
}

func (o topicOptions) options() (opts []ipc.PublisherOption) {
	if o.Keep > 0 {
		opts = append(opts, ipc.Keep(o.Keep))
	}
	if o.KeepBytes > 0 {
		opts = append(opts, ipc.KeepBytes(o.KeepBytes))
	}
	if o.CutOff > 0 {
		opts = append(opts, ipc.CutOffAfter(o.CutOff))
	}
	return opts
}

// publishing asks for N records, or for records without end.
type publishing struct {
	N       uint64
	Endless bool
}

// following asks to follow the host's topic.
type following struct {
	Reliable, Oldest, Latest bool
	Pause                    time.Duration // after each record
}

func (f following) options() (opts []ipc.SubscribeOption) {
	if f.Reliable {
		opts = append(opts, ipc.Reliable())
	}
	if f.Oldest {
		opts = append(opts, ipc.FromOldest())
	}
	if f.Latest {
		opts = append(opts, ipc.FromLatest())
	}
	return opts
}

// followed is what a subscriber has seen.
type followed struct {
	First, Next    uint64 // records that came, up to before Next
	Received, Lost uint64
	Wrong          string
	End            string // the class of the error, "" for none
}

// follow is the oracle of a subscriber: each record is whole, and the next one, or follows those that were told as lost.
func follow(ctx context.Context, s *ipc.Subscription[tick], each func()) (f followed, end error) {
	defer s.Close()
	for {
		k, err := s.Receive(ctx)
		var lost *ipc.LostError
		switch {
		case errors.As(err, &lost):
			if f.Lost += lost.Count; f.Next != 0 {
				f.Next += lost.Count
			}
			continue
		case err == io.EOF:
			return f, nil
		case err != nil:
			f.End = endOf(err)
			return f, err
		case !k.whole() || f.Next != 0 && k.N != f.Next || f.Next == 0 && f.Received > 0:
			f.Wrong = fmt.Sprintf("%+v where %d is next", k, f.Next)
			return f, nil
		}
		if f.Next == 0 {
			f.First = k.N - f.Lost
		}
		f.Received++
		f.Next = k.N + 1
		if each != nil {
			each()
		}
	}
}

func endOf(err error) string {
	switch {
	case errors.Is(err, ipc.ErrCutOff):
		return "cut off"
	case errors.Is(err, ipc.ErrPeerGone):
		return "gone"
	case errors.Is(err, ipc.ErrClosed):
		return "closed"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "context"
	}
	return err.Error()
}

// publishTicks publishes the numbers from 1 on, or from where it was.
func publishTicks(ctx context.Context, p *ipc.Publisher[tick], n uint64) error {
	at := p.Stats().Published
	for i := range n {
		if err := p.Publish(ctx, makeTick(at+i+1, (at+i)%7, (at+i)/7)); err != nil {
			return err
		}
	}
	return nil
}

func serveTopics(s *worker.Server) {
	var mu sync.Mutex
	var pub *ipc.Publisher[tick]
	var seen []*int
	worker.Handle(s, topicOpen, func(_ context.Context, o topicOptions) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		p, err := ticks.Publisher(s, o.options()...)
		pub = p
		return os.Getpid(), err
	})
	worker.Handle(s, topicPublish, func(ctx context.Context, p publishing) (ipc.PublisherStats, error) {
		for {
			if err := publishTicks(ctx, pub, p.N); err != nil || !p.Endless {
				return pub.Stats(), err
			}
		}
	})
	worker.Handle(s, topicClose, func(context.Context, int) (ipc.PublisherStats, error) { return pub.Stats(), pub.Close() })
	worker.Handle(s, topicFollows, func(context.Context, int) ([]int, error) {
		mu.Lock()
		defer mu.Unlock()
		var all []int
		for _, n := range seen {
			all = append(all, *n)
		}
		return all, nil
	})
	worker.Handle(s, topicFollow, func(ctx context.Context, f following) (followed, error) {
		sub, err := hostTicks.Open(ctx, worker.Host(ctx), f.options()...)
		if err != nil {
			return followed{}, err
		}
		defer sub.Close()
		mine := new(int)
		mu.Lock()
		seen = append(seen, mine)
		mu.Unlock()
		result, _ := follow(ctx, sub, func() {
			mu.Lock()
			*mine++
			mu.Unlock()
			time.Sleep(f.Pause)
		})
		return result, nil
	})
}

func hostPublisher(t testing.TB, r ipc.StreamRegistrar, opts ...ipc.PublisherOption) *ipc.Publisher[tick] {
	t.Helper()
	p, err := hostTicks.Publisher(r, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func openTopic(t testing.TB, w ipc.Caller, o topicOptions) {
	t.Helper()
	_, err := topicOpen.Call(t.Context(), w, o)
	require.NoError(t, err)
}

// A worker publishes to a host: each subscriber, whatever it is and does, sees what it has to.
func TestTopicFromWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		const records = 20_000
		openTopic(t, w, topicOptions{Keep: 256, KeepBytes: 16 << 10, CutOff: time.Hour})
		_, err := topicPublish.Call(t.Context(), w, publishing{N: 100})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 16 {
			f := following{Reliable: i%2 == 0, Oldest: i%4 < 2}
			sub, err := ticks.Open(t.Context(), w, f.options()...)
			require.NoError(t, err)
			wg.Go(func() {
				n := 0
				got, err := follow(context.Background(), sub, func() {
					if n++; i%5 == 0 && n%64 == 0 {
						time.Sleep(time.Millisecond)
					}
				})
				assert.NoError(t, err)
				assert.Empty(t, got.Wrong)
				assert.Equal(t, uint64(100+records+1), got.Next, "%+v", f)
				if f.Oldest {
					assert.Equal(t, uint64(1), got.First)
				}
				if f.Reliable {
					assert.Zero(t, got.Lost)
				}
				assert.Equal(t, ipc.SubscriptionStats{Received: got.Received, Lost: got.Lost, SharedMemory: w.Capabilities().SharedMemory}, sub.Stats())
			})
		}
		st, err := topicPublish.Call(t.Context(), w, publishing{N: records})
		require.NoError(t, err)
		require.Equal(t, 16, st.Subscribers)
		require.Equal(t, 8, st.Reliable)
		require.Equal(t, w.Capabilities().SharedMemory, st.SharedMemory == 16)
		_, err = topicClose.Call(t.Context(), w, 0)
		require.NoError(t, err)
		wg.Wait()
		eventually(t, "nobody subscribes", func() bool {
			st, err := topicClose.Call(t.Context(), w, 0)
			return err == nil && st.Subscribers == 0 && st.SharedMemory == 0
		})
	})
}

// A host publishes to workers, which share one set of handlers.
func TestTopicToWorkers(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		var h worker.Handlers
		p := hostPublisher(t, &h, ipc.Keep(64), ipc.KeepBytes(8<<10), ipc.CutOffAfter(time.Hour))
		const records = 10_000
		var wg sync.WaitGroup
		for range 2 {
			w := s.start(t, worker.WithHandlers(&h))
			for i := range 4 {
				wg.Go(func() {
					got, err := topicFollow.Call(t.Context(), w, following{Reliable: i > 1})
					assert.NoError(t, err)
					assert.Empty(t, got.Wrong+got.End)
					assert.Equal(t, uint64(records+1), got.Next)
					assert.Equal(t, uint64(records), got.Received+got.Lost+got.First-1)
					if i > 1 {
						assert.Zero(t, got.Lost)
						assert.Equal(t, uint64(1), got.First)
					}
				})
			}
		}
		eventually(t, "all subscribe", func() bool { return p.Stats().Subscribers == 8 })
		require.NoError(t, publishTicks(t.Context(), p, records))
		require.NoError(t, p.Close())
		wg.Wait()
		st := p.Stats()
		require.Equal(t, uint64(records), st.Published)
		require.Zero(t, st.CutOff)
	})
}

// A subscriber whose process is stopped is cut off if it is reliable, and loses records if not. Those of other processes lose nothing. When it
// goes on it is told.
func TestTopicStoppedSubscriber(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		var h worker.Handlers
		p := hostPublisher(t, &h, ipc.Keep(64), ipc.KeepBytes(8<<10), ipc.CutOffAfter(10*time.Second))
		stopped, other := s.start(t, worker.WithHandlers(&h)), s.start(t, worker.WithHandlers(&h))
		var wg sync.WaitGroup
		begin := func(w client, f following, check func(followed)) {
			wg.Go(func() {
				got, err := topicFollow.Call(context.Background(), w, f, ipc.WithTimeout(0))
				assert.NoError(t, err)
				assert.Empty(t, got.Wrong)
				check(got)
			})
		}
		const records = 30_000
		begin(stopped, following{Reliable: true}, func(got followed) {
			assert.Equal(t, "cut off", got.End)
			assert.Zero(t, got.Lost)
			assert.Less(t, got.Received, uint64(records))
		})
		begin(stopped, following{}, func(got followed) {
			assert.Empty(t, got.End)
			assert.Equal(t, uint64(records+1), got.Next)
			assert.NotZero(t, got.Lost)
		})
		begin(other, following{Reliable: true}, func(got followed) {
			assert.Empty(t, got.End)
			assert.Equal(t, uint64(records), got.Received)
		})
		eventually(t, "all subscribe", func() bool { return p.Stats().Subscribers == 3 })
		require.NoError(t, publishTicks(t.Context(), p, 10))
		eventually(t, "all have something", func() bool {
			a, err := topicFollows.Call(t.Context(), stopped, 0)
			require.NoError(t, err)
			return len(a) == 2 && a[0] > 0 && a[1] > 0
		})
		require.NoError(t, syscall.Kill(stopped.PID(), syscall.SIGSTOP))
		t.Cleanup(func() { _ = syscall.Kill(stopped.PID(), syscall.SIGCONT) })
		require.NoError(t, publishTicks(t.Context(), p, records-10))
		st := p.Stats()
		require.Equal(t, uint64(1), st.CutOff)
		require.Equal(t, 1, st.Reliable)
		require.Equal(t, 2, st.Subscribers)
		require.NoError(t, syscall.Kill(stopped.PID(), syscall.SIGCONT))
		require.NoError(t, p.Close())
		wg.Wait()
	})
}

// When a publisher's process is killed, its subscribers get a part of what was published without gaps, and then why. With shared memory that is all.
func TestTopicKilledPublisher(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		for _, endless := range []bool{true, false} {
			w := s.start(t)
			openTopic(t, w, topicOptions{CutOff: time.Hour})
			var wg sync.WaitGroup
			var some sync.WaitGroup
			for i := range 4 {
				sub, err := ticks.Open(t.Context(), w, following{Reliable: i > 0}.options()...)
				require.NoError(t, err)
				some.Add(1)
				wg.Go(func() {
					first := sync.OnceFunc(some.Done)
					got, err := follow(context.Background(), sub, first)
					var exit *worker.ExitError
					assert.ErrorAs(t, err, &exit)
					assert.Empty(t, got.Wrong)
					if i > 0 {
						assert.Zero(t, got.Lost)
					}
					if !endless && sub.Stats().SharedMemory {
						assert.Equal(t, uint64(501), got.Next)
					}
				})
			}
			called := make(chan error, 1)
			go func() {
				_, err := topicPublish.Call(context.Background(), w, publishing{N: 500, Endless: endless})
				called <- err
			}()
			if endless {
				some.Wait()
			} else {
				require.NoError(t, <-called)
			}
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
			wg.Wait()
			if endless {
				require.ErrorIs(t, <-called, ipc.ErrPeerGone)
			}
			_, err := ticks.Open(t.Context(), w)
			require.ErrorIs(t, err, ipc.ErrPeerGone)
		}
	})
}

// Subscribers that are killed, stopped and lapped or waited for, leave nothing and hold up nobody.
func TestTopicKilledSubscriber(t *testing.T) {
	eachPlainDriverAlone(t, func(t *testing.T, s spawner) {
		before := leaktest.NewBaseline()
		var h worker.Handlers
		p, err := hostTicks.Publisher(&h, ipc.Keep(16), ipc.KeepBytes(8<<10), ipc.CutOffAfter(time.Hour))
		require.NoError(t, err)
		for _, reliable := range []bool{false, true} {
			w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithHandlers(&h))
			require.NoError(t, err)
			called := make(chan error, 1)
			go func() {
				_, err := topicFollow.Call(context.Background(), w, following{Reliable: reliable})
				called <- err
			}()
			eventually(t, "it subscribes", func() bool { return p.Stats().Subscribers == 1 })
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGSTOP))
			published := make(chan error, 1)
			const records = 200_000 // more than is on its way to it
			go func() { published <- publishTicks(context.Background(), p, records) }()
			if reliable {
				at := p.Stats().Published
				eventually(t, "Publish waits", func() bool {
					last := at
					at = p.Stats().Published
					return at == last && at > 0
				})
			} else {
				require.NoError(t, <-published)
			}
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
			require.ErrorIs(t, <-called, ipc.ErrPeerGone)
			if reliable {
				require.NoError(t, <-published)
			}
			eventually(t, "it is gone", func() bool { return p.Stats().Subscribers == 0 })
			_ = w.Close()
		}
		require.NoError(t, p.Close())
		require.Empty(t, before.Leaks())
	})
}

// eachPlainDriverAlone runs a test with the drivers as they are, one after the other.
func eachPlainDriverAlone(t *testing.T, test func(t *testing.T, s spawner)) {
	for _, s := range spawners {
		if s.name == "shm" || s.name == "socket" {
			t.Run(s.name, func(t *testing.T) { test(t, s) })
		}
	}
}

// Subscriptions end with their context, their loop, and their client, which does not wait for them. Nothing is left.
func TestTopicEnds(t *testing.T) {
	eachPlainDriverAlone(t, func(t *testing.T, s spawner) {
		before := leaktest.NewBaseline()
		w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithGrace(time.Hour))
		require.NoError(t, err)
		openTopic(t, w, topicOptions{})
		subscribed := func(n int) {
			eventually(t, fmt.Sprint(n, " subscribe"), func() bool {
				st, err := topicPublish.Call(t.Context(), w, publishing{N: 1})
				return err == nil && st.Subscribers == n
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		sub, err := ticks.Open(ctx, w)
		require.NoError(t, err)
		cancel()
		_, err = follow(context.Background(), sub, nil)
		require.ErrorIs(t, err, context.Canceled)
		forgotten, err := ticks.Open(ctx, w)
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, forgotten)

		sub, err = ticks.Open(t.Context(), w)
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := follow(context.Background(), sub, nil)
			ended <- err
		}()
		sub.Close()
		require.ErrorIs(t, <-ended, ipc.ErrClosed)
		sub.Close()

		subscribed(0)
		for _, err := range ticks.Subscribe(t.Context(), w, ipc.FromOldest()) {
			require.NoError(t, err)
			break
		}
		subscribed(0)

		late, err := ticks.Open(t.Context(), w)
		require.NoError(t, err)
		subscribed(1)
		go func() {
			_, err := follow(context.Background(), late, nil)
			ended <- err
		}()
		unread, err := ticks.Open(t.Context(), w) // and nobody receives from it, or closes it
		require.NoError(t, err)
		subscribed(2)
		require.NoError(t, w.Close())
		require.ErrorIs(t, <-ended, ipc.ErrClosed)
		_, err = unread.Receive(context.Background())
		require.ErrorIs(t, err, ipc.ErrClosed)
		require.Empty(t, before.Leaks())
	})
}

// Who begins with the latest record of each key, in another process, gets each key's versions without gaps.
func TestTopicLatestFromWorker(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		openTopic(t, w, topicOptions{Keep: 32, KeepBytes: 8 << 10, CutOff: time.Hour})
		var wg sync.WaitGroup
		for range 20 {
			_, err := topicPublish.Call(t.Context(), w, publishing{N: 500})
			require.NoError(t, err)
			sub, err := ticks.Open(t.Context(), w, ipc.FromLatest(), ipc.Reliable())
			require.NoError(t, err)
			wg.Go(func() {
				versions := make(map[uint64]uint64)
				for k, err := range sub.All(context.Background()) {
					if !assert.NoError(t, err) {
						return
					}
					if last, ok := versions[k.Key]; ok {
						assert.Equal(t, last+1, k.Version)
					}
					versions[k.Key] = k.Version
				}
				assert.Len(t, versions, 7)
			})
			publish := func() {
				_, err := topicPublish.Call(t.Context(), w, publishing{N: 300})
				assert.NoError(t, err)
			}
			publish()
		}
		_, err := topicClose.Call(t.Context(), w, 0)
		require.NoError(t, err)
		wg.Wait()
	})
}

// A pool gives a subscription a place at one of its workers; what it publishes goes to all that subscribe.
func TestTopicPool(t *testing.T) {
	p, err := pool.New(t.Context(), 2, worker.Self("test"), shm.Driver{}, pool.WithConcurrency(8), pool.WithWorkers(worker.WithStartTimeout(time.Minute)))
	require.NoError(t, err)
	defer p.Close()
	pub := hostPublisher(t, p)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := topicFollow.Call(t.Context(), p, following{})
			assert.NoError(t, err)
			assert.Empty(t, got.Wrong+got.End)
			assert.Equal(t, uint64(101), got.Next)
		})
	}
	eventually(t, "all subscribe", func() bool { return pub.Stats().Subscribers == 4 })
	require.NoError(t, publishTicks(t.Context(), pub, 100))
	require.NoError(t, pub.Close())
	wg.Wait()
	_, err = ticks.Open(t.Context(), p)
	require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
	openTopic(t, p.For("1"), topicOptions{})
	sub, err := ticks.Open(t.Context(), p.For("1"))
	require.NoError(t, err)
	_, err = topicPublish.Call(t.Context(), p.For("1"), publishing{N: 1})
	require.NoError(t, err)
	k, err := sub.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), k.N)
	sub.Close()
}

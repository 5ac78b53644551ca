package worker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/broadcast"
	"github.com/tandemipc/tandem/ring/sealed"
	"github.com/tandemipc/tandem/worker"
)

var (
	topicHostilePublisher  = ipc.NewMethod[string, int]("test.topic_hostile_publisher")
	topicHostileSubscriber = ipc.NewMethod[string, hostileEnd]("test.topic_hostile_subscriber")
)

// hostileEnd is how the stream of a hostile subscriber has ended.
type hostileEnd struct {
	Code  ipc.Code
	Begun uint64 // the form of the begin, and 1; 0 if none has come
}

func init() {
	entries["topic hostile"] = func() error {
		s := worker.NewServer()
		worker.Handle(s, topicHostilePublisher, func(_ context.Context, name string) (int, error) {
			s.RegisterStream(ticks.Info(), hostilePublishers[name])
			return 0, nil
		})
		worker.Handle(s, topicHostileSubscriber, func(ctx context.Context, name string) (hostileEnd, error) {
			return hostileSubscribers[name](ctx, worker.Host(ctx).(ipc.StreamCaller))
		})
		return s.Serve(context.Background())
	}
}

func startHostile(t *testing.T, opts ...worker.Option) client {
	t.Helper()
	w, err := spawnerFor("shm", shm.Driver{}).spawn(t.Context(), worker.Self("topic hostile"), opts...)
	if errors.Is(err, ipc.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return w
}

// sent is an item with files.
func sent(ctx context.Context, st ipc.Stream, item []byte, files ...*os.File) error {
	var a ipc.Attachments
	for i, f := range files {
		a.AddFile(uint64(i+1), ipc.NewFile(f))
	}
	return st.(ipc.AttachedStream).SendAttached(ctx, item, &a)
}

func words(w ...uint64) (b []byte) {
	for _, n := range w {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// zeroes is sealed memory that was not formatted.
func zeroes(size int) *os.File { return must(sealed.Create("test", size)).File() }

type serveStream = func(context.Context, ipc.Stream, <-chan struct{}) error

// begins is a publisher that begins so, with these files, and then waits.
func begins(begin []byte, files func() []*os.File) serveStream {
	return func(ctx context.Context, st ipc.Stream, _ <-chan struct{}) error {
		_, err := st.Receive(ctx)
		st.(ipc.AttachedStream).Attachments().Release()
		if err == nil {
			err = sent(ctx, st, begin, files()...)
		}
		if err == nil {
			<-ctx.Done()
		}
		return err
	}
}

func noFiles() []*os.File { return nil }

// publishes is a publisher with a ring whose first record has number start, and that says that it is next.
func publishes(start, next uint64, then func(w *broadcast.Writer, mem []byte)) serveStream {
	return func(ctx context.Context, st ipc.Stream, _ <-chan struct{}) error {
		if _, err := st.Receive(ctx); err != nil {
			return err
		}
		st.(ipc.AttachedStream).Attachments().Release()
		segment := must(broadcast.Create(4096, broadcast.Start(broadcast.Point{Sequence: start})))
		w := must(broadcast.NewWriter(segment.Bytes()))
		if err := sent(ctx, st, words(0, next, 0, 1, w.Point().Position), segment.File()); err != nil {
			return err
		}
		then(w, segment.Bytes())
		<-ctx.Done()
		return nil
	}
}

func writeTicks(w *broadcast.Writer, from, n uint64) {
	for i := range n {
		k := makeTick(from+i, 0, 0)
		_ = w.Write(0, words(k.N, k.Key, k.Version, k.Check))
	}
}

var hostilePublishers = map[string]serveStream{
	"no file":        begins(words(0, 5, 0, 1, 0), noFiles),
	"a pipe":         begins(words(0, 5, 0, 1, 0), func() []*os.File { r, _, err := os.Pipe(); return []*os.File{must(r, err)} }),
	"a regular file": begins(words(0, 5, 0, 1, 0), func() []*os.File { return []*os.File{must(os.Open("/proc/self/exe"))} }),
	"zeroes":         begins(words(0, 5, 0, 1, 0), func() []*os.File { return []*os.File{zeroes(broadcast.ControlSize + broadcast.MinSize)} }),
	"another size":   begins(words(0, 5, 0, 1, 0), func() []*os.File { return []*os.File{zeroes(broadcast.ControlSize + broadcast.MinSize + 1)} }),
	"a reader's":     begins(words(0, 5, 0, 1, 0), func() []*os.File { return []*os.File{must(broadcast.CreateReader()).File()} }),
	"two files":      begins(words(0, 5, 0, 1, 0), func() []*os.File { return []*os.File{must(broadcast.Create(4096)).File(), zeroes(4096)} }),
	"another position": publishes(5, 5, func(w *broadcast.Writer, mem []byte) {
		clear(mem[broadcast.ControlSize:])
		for i := range mem[broadcast.ControlSize:] {
			mem[broadcast.ControlSize+i] = 0xff
		}
	}),
	"numbers that fall": begins(words(0, 1<<40, 0, 1, 0), func() []*os.File {
		segment := must(broadcast.Create(4096, broadcast.Start(broadcast.Point{Sequence: 5})))
		writeTicks(must(broadcast.NewWriter(segment.Bytes())), 5, 1000) // so that who begins at 0 is lapped
		return []*os.File{segment.File()}
	}),
	"an unknown tag": publishes(5, 5, func(w *broadcast.Writer, _ []byte) { _ = w.Write(7, words(5, 5, 5, 5)) }),
	"short records":  publishes(5, 5, func(w *broadcast.Writer, _ []byte) { _ = w.Write(0, []byte("short")) }),
	"changing words": publishes(5, 5, func(w *broadcast.Writer, mem []byte) {
		writeTicks(w, 5, 10)
		for i := broadcast.ControlSize; i < len(mem); i++ {
			mem[i] ^= 0x5a
		}
	}),
	"items beside memory": func(ctx context.Context, st ipc.Stream, d <-chan struct{}) error {
		ctx, cancel := context.WithCancel(ctx)
		return publishes(5, 5, func(*broadcast.Writer, []byte) {
			_ = st.Send(ctx, words(5, 5, 5, 5, 5))
			cancel()
		})(ctx, st, d)
	},
	"a file beside a stream": func(ctx context.Context, st ipc.Stream, d <-chan struct{}) error {
		if _, err := st.Receive(ctx); err != nil {
			return err
		}
		if err := sent(ctx, st, words(0, 5, 0, 0, 0), zeroes(4096)); err != nil {
			return err
		}
		return st.Send(ctx, words(4, 4, 4, 4, 4))
	},
}

// Whatever a publisher says and passes: its subscription ends with an error that says so, and the subscriber keeps nothing.
func TestTopicHostileMemory(t *testing.T) {
	w := startHostile(t)
	require.NoError(t, w.Close())
	before := leaktest.NewBaseline()
	for _, name := range slices.Sorted(maps.Keys(hostilePublishers)) {
		t.Run(name, func(t *testing.T) {
			w := startHostile(t)
			_, err := topicHostilePublisher.Call(t.Context(), w, name)
			require.NoError(t, err)
			sub, err := ticks.Open(t.Context(), w)
			var got followed
			if err == nil {
				got, err = follow(t.Context(), sub, nil)
			}
			if name == "changing words" && err == nil && got.Wrong != "" { // the record was changed, and not what is around it
				require.NoError(t, w.Close())
				return
			}
			if name != "short records" {
				require.ErrorIs(t, err, ipc.ErrProtocol)
			}
			require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, "test.ticks")
			require.True(t, w.Active(), "the link goes on")
			require.NoError(t, w.Close())
		})
	}
	require.Empty(t, before.Leaks())
}

// subscribes is a subscriber that sends a request with files, and does something when the publisher has begun.
func subscribes(request []byte, files func() []*os.File, then func(context.Context, ipc.Stream) error) func(context.Context, ipc.StreamCaller) (hostileEnd, error) {
	return func(ctx context.Context, c ipc.StreamCaller) (end hostileEnd, err error) {
		st, err := c.OpenStream(ctx, &ipc.Invocation{Method: hostTicks.Info()}, &ipc.StreamOpening{})
		if err != nil {
			return end, err
		}
		defer st.Close()
		if err := sent(ctx, st, request, files()...); err != nil {
			return end, err
		}
		b, err := st.Receive(ctx)
		st.(ipc.AttachedStream).Attachments().Release()
		if err == nil {
			if end.Begun = 1 + binary.LittleEndian.Uint64(b[24:]); then == nil {
				return end, nil
			}
			err = then(ctx, st)
		}
		for err == nil {
			_, err = st.Receive(ctx)
		}
		if err != io.EOF {
			end.Code = ipc.CodeOf(err)
		}
		return end, nil
	}
}

func ownFile() []*os.File { return []*os.File{must(broadcast.CreateReader()).File()} }

var hostileSubscribers = map[string]func(context.Context, ipc.StreamCaller) (hostileEnd, error){
	"no file":       subscribes([]byte{1, 0, 2}, noFiles, nil),
	"a pipe":        subscribes([]byte{1, 0, 2}, func() []*os.File { r, _, err := os.Pipe(); return []*os.File{must(r, err)} }, nil),
	"zeroes":        subscribes([]byte{1, 0, 2}, func() []*os.File { return []*os.File{zeroes(broadcast.ReaderSize)} }, nil),
	"a writer's":    subscribes([]byte{1, 0, 2}, func() []*os.File { return []*os.File{must(broadcast.Create(4096)).File()} }, nil),
	"two files":     subscribes([]byte{1, 0, 2}, func() []*os.File { return append(ownFile(), ownFile()...) }, nil),
	"file for none": subscribes([]byte{1, 0, 0}, ownFile, nil),
	"a short item": subscribes([]byte{1, 0, 2}, ownFile, func(ctx context.Context, st ipc.Stream) error {
		return st.Send(ctx, []byte("short"))
	}),
	"huge losses": subscribes([]byte{1, 0, 2}, ownFile, func(ctx context.Context, st ipc.Stream) error {
		for range 10_000 {
			if err := st.Send(ctx, words(1<<63)); err != nil {
				return err
			}
		}
		return st.Send(ctx, nil) // and then a short one
	}),
	// It is there from the beginning: the publisher waits for one that comes while it waits, until that is cut off.
	"a wrong position": subscribes([]byte{1, 0, 3}, func() []*os.File {
		own := must(broadcast.CreateReader())
		for i := range own.Bytes()[0x80:0x88] {
			own.Bytes()[0x80+i] = 0x33
		}
		return []*os.File{own.File()}
	}, func(context.Context, ipc.Stream) error { return nil }),
}

// Whatever a subscriber says and passes: it is refused or cut off at once, others get all, and the publisher keeps nothing.
func TestTopicHostileReader(t *testing.T) {
	w := startHostile(t)
	require.NoError(t, w.Close())
	before := leaktest.NewBaseline()
	for _, name := range slices.Sorted(maps.Keys(hostileSubscribers)) {
		t.Run(name, func(t *testing.T) {
			var h worker.Handlers
			p, err := hostTicks.Publisher(&h, ipc.KeepBytes(4096), ipc.CutOffAfter(time.Hour))
			require.NoError(t, err)
			w, honest := startHostile(t, worker.WithHandlers(&h)), spawners[0].start(t, worker.WithHandlers(&h))
			got := make(chan followed, 1)
			go func() {
				f, err := topicFollow.Call(context.Background(), honest, following{Reliable: true})
				if err != nil {
					f.Wrong = err.Error()
				}
				got <- f
			}()
			eventually(t, "the honest one subscribes", func() bool { return p.Stats().Subscribers == 1 })
			ended := make(chan struct{})
			go func() { // so that it is found out
				for {
					select {
					case <-ended:
						return
					default:
						_ = publishTicks(context.Background(), p, 10)
					}
				}
			}()
			end, err := topicHostileSubscriber.Call(t.Context(), w, name)
			close(ended)
			require.NoError(t, err)
			switch name {
			case "file for none":
				require.Equal(t, hostileEnd{Begun: 1}, end, "a stream")
			case "no file", "a pipe", "zeroes", "a writer's", "two files":
				require.Equal(t, hostileEnd{Code: ipc.CodeInvalidArgument}, end)
			default:
				require.Equal(t, hostileEnd{Code: ipc.CodeInvalidArgument, Begun: 2}, end)
			}
			eventually(t, "it is gone", func() bool { return p.Stats().Subscribers == 1 })
			if name != "file for none" { // which may have been lapped
				require.Zero(t, p.Stats().Lost)
			}
			require.NoError(t, p.Close())
			f := <-got
			require.Empty(t, f.Wrong+f.End)
			require.Zero(t, f.Lost)
			require.Equal(t, p.Stats().Published+1, f.Next)
			require.NoError(t, w.Close())
			require.NoError(t, honest.Close())
		})
	}
	require.Empty(t, before.Leaks())
}

//go:build unix

package worker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

var (
	fileBack = ipc.NewMethod[parcel, parcel]("test.file_back") // calls fileHost with its request
	fileHost = ipc.NewMethod[parcel, parcel]("test.file_host") // the host's
	fileSafe = ipc.NewMethod[parcel, parcel]("test.parcel_echo", ipc.WithIdempotent())
	errTwice = errors.New("not the first time")
)

// callAll sends files in each way that callers have.
func callAll(t *testing.T, c ipc.StreamCaller, p *probe) {
	t.Helper()
	requireGot := func(got parcel, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, "files", got.What)
		for _, f := range append(got.More, got.File) {
			_, err := f.File().WriteString("x")
			require.NoError(t, err)
		}
		got.close()
	}
	requireGot(parcelEcho.Call(t.Context(), c, p.parcelOf("files", 4)))
	requireGot(fileSafe.Call(t.Context(), c, p.parcelOf("files", 4)))
	var into parcel
	err := parcelEcho.CallInto(t.Context(), c, p.parcelOf("files", 4), &into)
	requireGot(into, err)
	var futures []*ipc.Future[parcel]
	require.NoError(t, ipc.Batch(t.Context(), c, func(c ipc.Caller) error {
		for i := range 30 {
			if err := fileUse.Notify(t.Context(), c, parcel{}); err != nil { // which others can join
				return err
			}
			if err := fileUse.Notify(t.Context(), c, p.parcelOf("", 1+i%5)); err != nil {
				return err
			}
			f, err := parcelEcho.Go(t.Context(), c, p.parcelOf("files", 1+i%5))
			if err != nil {
				return err
			}
			if futures = append(futures, f); i == 10 {
				if _, err := futures[3].Wait(t.Context()); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	for i, f := range futures {
		got, err := f.Wait(t.Context())
		require.Len(t, got.More, i%5)
		requireGot(got, err)
	}
	st, err := fileItems.Open(t.Context(), c)
	require.NoError(t, err)
	defer st.Close()
	for range 5 {
		require.NoError(t, st.Send(t.Context(), p.parcelOf("files", 3)))
		requireGot(st.Receive(t.Context()))
	}
	for got, err := range fileList.Stream(t.Context(), c, p.parcelOf("files", 3)) {
		requireGot(got, err)
	}
}

// Files cross in batches, through interceptors and pools, and to handlers of the host.
func TestFilesInAllWays(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		p := newProbe(t)
		t.Run("client", func(t *testing.T) { callAll(t, s.start(t).(ipc.StreamCaller), p) })
		t.Run("intercepted", func(t *testing.T) {
			seen := 0
			pass := func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error {
				seen++
				return next(ctx)
			}
			refuse := func(ctx context.Context, c *ipc.Call, next func(context.Context) error) error {
				if err := next(ctx); c.Metadata.Get("refuse") == "" || err != nil {
					return err
				}
				return errTwice
			}
			w := s.start(t, worker.WithInterceptors(ipc.Interceptor{Call: pass, Attempt: pass}, ipc.Interceptor{
				Call:   refuse,
				Stream: func(_ context.Context, _ *ipc.Call, s ipc.Stream) ipc.Stream { return s },
			}))
			callAll(t, w.(ipc.StreamCaller), p)
			require.Positive(t, seen)
			_, err := parcelEcho.Call(t.Context(), w, p.parcelOf("files", 3), ipc.WithMetadata("refuse", "1"))
			require.ErrorIs(t, err, errTwice, "the response that has come is nobody's")
		})
		t.Run("callback", func(t *testing.T) {
			w := s.start(t)
			worker.Handle(w, fileHost, func(_ context.Context, p parcel) (parcel, error) { return p, nil })
			got, err := fileBack.Call(t.Context(), w, p.parcelOf("there and back, and again", 5))
			require.NoError(t, err)
			require.Len(t, got.More, 4)
			_, err = got.More[3].File().WriteString("x")
			require.NoError(t, err)
			got.close()
			_, err = fileBack.Call(t.Context(), w, p.parcelOf("fail", 5))
			require.Error(t, err)
		})
		p.requireClosed(t)
	})
}

func TestFilesThroughPools(t *testing.T) {
	for name, start := range map[string]func() (ipc.StreamCaller, func() error, error){
		"shm": func() (ipc.StreamCaller, func() error, error) {
			p, err := pool.New(t.Context(), 3, worker.Self("test"), shm.Driver{})
			return p, p.Close, err
		},
		"socket": func() (ipc.StreamCaller, func() error, error) {
			p, err := pool.New(t.Context(), 3, worker.Self("test"), socket.Driver{})
			return p, p.Close, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, end, err := start()
			require.NoError(t, err)
			defer end()
			p := newProbe(t)
			callAll(t, c, p)
			p.requireClosed(t)
		})
	}
}

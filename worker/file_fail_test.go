//go:build unix

package worker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var fileStray = ipc.NewMethod[parcel, int]("test.file_stray") // has no handler

// expired returns a context that ends soon, by its deadline.
func expired(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// fileFates are ways in which files go astray. After each no process has them, though both
// processes live, or the one that is left.
var fileFates = map[string]func(t *testing.T, w client, p *probe){
	"handler ignores them": func(t *testing.T, w client, p *probe) {
		_, err := fileUse.Call(t.Context(), w, p.parcelOf("", 3))
		require.NoError(t, err)
	},
	"handler fails": func(t *testing.T, w client, p *probe) {
		_, err := fileUse.Call(t.Context(), w, p.parcelOf("error", 3))
		require.ErrorContains(t, err, "no")
	},
	"handler panics": func(t *testing.T, w client, p *probe) {
		_, err := fileUse.Call(t.Context(), w, p.parcelOf("panic", 3))
		require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
	},
	"no handler": func(t *testing.T, w client, p *probe) {
		_, err := fileStray.Call(t.Context(), w, p.parcelOf("", 3))
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
		require.NoError(t, fileStray.Notify(t.Context(), w, p.parcelOf("", 3)))
	},
	"other message": func(t *testing.T, w client, p *probe) { // which the handler cannot decode
		wrong := ipc.NewMethod[struct{ What ipc.File }, string]("test.file_use")
		_, err := wrong.Call(t.Context(), w, struct{ What ipc.File }{p.File})
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	},
	"other response": func(t *testing.T, w client, p *probe) {
		wrong := ipc.NewMethod[parcel, struct{ File string }]("test.parcel_echo")
		_, err := wrong.Call(t.Context(), w, p.parcelOf("", 3))
		require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
	},
	"response nobody looks at": func(t *testing.T, w client, p *probe) {
		type none struct{}
		_, err := ipc.NewMethod[parcel, none]("test.parcel_echo").Call(t.Context(), w, p.parcelOf("", 3))
		require.NoError(t, err)
	},
	"caller gives up": func(t *testing.T, w client, p *probe) {
		_, err := fileUse.Call(expired(t, 10*time.Millisecond), w, p.parcelOf("block", 3))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		_, err = fileUse.Call(ctx, w, p.parcelOf("block", 3))
		require.ErrorIs(t, err, context.Canceled)
	},
	"caller gives up before": func(t *testing.T, w client, p *probe) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := parcelEcho.Call(ctx, w, p.parcelOf("", 3))
		require.ErrorIs(t, err, context.Canceled)
	},
	"late response": func(t *testing.T, w client, p *probe) {
		before := w.LateResponses()
		eventually(t, "the response comes", func() bool {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel) // perhaps before the request was sent
			_, err := fileLate.Call(ctx, w, p.parcelOf("", 3))
			require.ErrorIs(t, err, context.Canceled)
			_, err = rawEcho.Call(t.Context(), w, nil) // somebody reads
			require.NoError(t, err)
			return w.LateResponses() > before
		})
	},
	"abandoned future": func(t *testing.T, w client, p *probe) {
		for range 10 {
			f, err := parcelEcho.Go(t.Context(), w, p.parcelOf("", 3))
			require.NoError(t, err)
			f.Abandon()
		}
		f, err := fileLate.Go(t.Context(), w, p.parcelOf("", 3))
		require.NoError(t, err)
		f.Abandon()
	},
	"notification": func(t *testing.T, w client, p *probe) {
		for range 20 {
			require.NoError(t, fileUse.Notify(t.Context(), w, p.parcelOf("", 3)))
		}
	},
	"stream is closed unread": func(t *testing.T, w client, p *probe) {
		st, err := fileItems.Open(t.Context(), w)
		require.NoError(t, err)
		for range 20 {
			require.NoError(t, st.Send(t.Context(), p.parcelOf("", 3)))
		}
		st.Close()
		for range 3 {
			list, err := fileList.Open(t.Context(), w, p.parcelOf("many", 3))
			require.NoError(t, err)
			got, err := list.Receive(t.Context())
			require.NoError(t, err)
			got.close()
			list.Close()
		}
	},
	"stream's handler returns early": func(t *testing.T, w client, p *probe) {
		st, err := fileSink.Open(t.Context(), w)
		require.NoError(t, err)
		defer st.Close()
		for range 20 {
			if err = st.Send(t.Context(), p.parcelOf("", 3)); err != nil {
				break // io.EOF, when the handler has returned
			}
		}
		n, err := st.CloseAndReceive(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, n)
	},
	"stream's item cannot be decoded": func(t *testing.T, w client, p *probe) {
		st, err := ipc.NewBidiStream[struct{ What ipc.File }, parcel]("test.file_items").Open(t.Context(), w)
		require.NoError(t, err)
		defer st.Close()
		require.NoError(t, st.Send(t.Context(), struct{ What ipc.File }{p.File}))
		_, err = st.Receive(t.Context())
		require.Error(t, err)
	},
	"one of them is closed": func(t *testing.T, w client, p *probe) {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		gone := ipc.NewFile(f)
		f.Close()
		in := p.parcelOf("", 3)
		in.More = append(in.More, gone)
		for range 10 {
			_, err = parcelEcho.Call(t.Context(), w, in)
			require.ErrorIs(t, err, os.ErrClosed)
			require.ErrorIs(t, parcelEcho.Notify(t.Context(), w, in), os.ErrClosed)
		}
		st, err := fileItems.Open(t.Context(), w)
		require.NoError(t, err)
		defer st.Close()
		require.Error(t, st.Send(t.Context(), in))
	},
	"message is too large": func(t *testing.T, w client, p *probe) {
		in := p.parcelOf(string(make([]byte, 100<<20)), 3)
		_, err := parcelEcho.Call(t.Context(), w, in)
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	},
	"client is closed": func(t *testing.T, w client, p *probe) {
		var futures []*ipc.Future[parcel]
		for range 20 {
			f, err := parcelEcho.Go(t.Context(), w, p.parcelOf("", 3))
			require.NoError(t, err)
			futures = append(futures, f)
		}
		require.NoError(t, w.Close())
		for i, f := range futures {
			if i%2 == 0 {
				f.Abandon()
			} else if got, err := f.Wait(t.Context()); err == nil {
				got.close()
			}
		}
	},
	"worker dies": func(t *testing.T, w client, p *probe) {
		for range 5 {
			_, err := fileLate.Go(t.Context(), w, p.parcelOf("", 3))
			require.NoError(t, err)
		}
		_, err := fileUse.Call(t.Context(), w, p.parcelOf("die", 3))
		require.ErrorIs(t, err, ipc.ErrPeerGone)
	},
	"worker stops": func(t *testing.T, w client, p *probe) {
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGSTOP))
		defer func() { _ = syscall.Kill(w.PID(), syscall.SIGCONT) }()
		failed := 0
		for i := range 1000 { // some of which find no room, and are given up in all stages
			in := p.parcelOf(string(make([]byte, (i%3)*30_000)), 1+i%ipc.MaxFiles)
			if err := parcelEcho.Notify(expired(t, time.Millisecond), w, in); err != nil {
				// The second is for those who may not have many files on their way.
				require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ipc.ErrExhausted), "%v", err)
				if failed++; failed == 30 {
					break
				}
			}
		}
		require.Positive(t, failed)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
		got, err := parcelEcho.Call(t.Context(), w, p.parcelOf("after it", 3)) // nothing is mixed up
		require.NoError(t, err)
		require.Equal(t, "after it", got.What)
		got.close()
	},
}

func TestFilesGoAstray(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		for name, fate := range fileFates {
			t.Run(name, func(t *testing.T) {
				w := s.start(t)
				p := newProbe(t)
				fate(t, w, p)
				p.requireClosed(t)
				if name == "client is closed" || name == "worker dies" {
					return
				}
				// The link is as good as before.
				p = newProbe(t)
				got, err := parcelEcho.Call(t.Context(), w, p.parcelOf("again", ipc.MaxFiles))
				require.NoError(t, err)
				require.Equal(t, "again", got.What)
				_, err = got.More[14].File().WriteString("x")
				require.NoError(t, err)
				got.close()
				p.requireClosed(t)
			})
		}
	})
}

// An idempotent call is sent again to the worker's successor, with its files.
func TestFilesAreSentAgain(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithRestart(worker.Restart{Delay: 1}), worker.WithRetry(5))
		p := newProbe(t)
		what := diesOnce + filepath.Join(t.TempDir(), "died")
		got, err := fileUseSafe.Call(t.Context(), w, p.parcelOf(what, 3))
		require.NoError(t, err)
		require.Equal(t, what, got)
		p.requireClosed(t)
	})
}

// A peer whose files nobody takes gets no further ones taken, and this process keeps its descriptors
// for others.
func TestFilesThatNobodyTakes(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		p := newProbe(t)
		var held []parcel
		for n := 0; ; n++ {
			require.LessOrEqual(t, n, drivers.MaxHeldFiles/ipc.MaxFiles)
			back, err := parcelEcho.Call(t.Context(), w, p.parcelOf("many", ipc.MaxFiles))
			if err != nil {
				require.Equal(t, drivers.MaxHeldFiles/ipc.MaxFiles, n)
				require.ErrorIs(t, err, ipc.ErrExhausted)
				break
			}
			held = append(held, back)
		}
		got, err := rawEcho.Call(t.Context(), w, []byte("without"))
		require.NoError(t, err)
		require.Equal(t, "without", string(got))
		for _, back := range held {
			back.close()
		}
		back, err := parcelEcho.Call(t.Context(), w, p.parcelOf("many", ipc.MaxFiles))
		require.NoError(t, err)
		back.close()
		p.requireClosed(t)
	})
}

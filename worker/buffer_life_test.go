//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// message returns a message with two buffers, one of them twice. The caller releases them.
func (l *lifeTest) message(how string) lifeMessage {
	b := l.alloc(3000)
	return lifeMessage{How: how, Size: 5000, B: b, More: []ipc.Buffer{b, l.alloc(100)}}
}

// lifeCalls are ways in which a call, or what comes of it, can end.
var lifeCalls = []struct {
	name string
	do   func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage])
}{
	{"echo", lifeOK("echo")},
	{"new", lifeOK("new")},
	{"new and the request's", lifeOK("both")},
	{"retained", lifeOK("retained")},
	{"error", lifeFails("error")},
	{"result and error", lifeFails("result and error")},
	{"panic", lifeFails("panic")},
	{"goexit", lifeFails("goexit")},
	{"too many", lifeFails("too many")},
	{"released", lifeFails("released")},
	{"refused by an interceptor", lifeFails("new", ipc.WithMetadata("life", "refuse"))},
	{"failed by an interceptor", lifeFails("both", ipc.WithMetadata("life", "fail"))},
	{"panic in an interceptor", lifeFails("both", ipc.WithMetadata("life", "panic"))},
	{"canceled before", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		req := l.message("echo")
		defer req.release()
		_, err := m.Call(ctx, l.w, req)
		require.ErrorIs(l, err, context.Canceled)
	}},
	{"canceled while the handler runs", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		l.giveUp(m, "block", false)
	}},
	{"late", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) { l.giveUp(m, "late", true) }},
	{"canceled at any time", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		for range 200 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.Int64N(int64(500*time.Microsecond))))
			req := l.message("both")
			if res, err := m.Call(ctx, l.w, req); err == nil {
				res.release()
			}
			req.release()
			cancel()
		}
	}},
	{"timeout", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		for range 20 {
			req := l.message("both")
			if res, err := m.Call(context.Background(), l.w, req, ipc.WithTimeout(time.Duration(1+rand.Int64N(int64(300*time.Microsecond))))); err == nil {
				res.release()
			}
			req.release()
		}
	}},
	{"abandoned", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		for i := range 50 {
			req := l.message("both")
			f, err := m.Go(context.Background(), l.w, req)
			require.NoError(l, err)
			req.release() // it was sent
			if i%2 == 0 {
				_, err := add.Call(context.Background(), l.w, pair{1, 2}) // the response has come
				require.Error(l, err)
			}
			f.Abandon()
			f.Abandon()
			_, err = f.Wait(context.Background())
			require.ErrorIs(l, err, ipc.ErrAbandoned)
		}
	}},
	{"future", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		req := l.message("both")
		f, err := m.Go(context.Background(), l.w, req)
		require.NoError(l, err)
		req.release()
		res, err := f.Wait(context.Background())
		require.NoError(l, err)
		again, err := f.Wait(context.Background())
		require.NoError(l, err)
		require.Equal(l, res.B, again.B, "the same each time")
		require.Len(l, res.B.Bytes(), 5000)
		requireFilled(l.T, res.More[0], 3000, 1)
		res.release()
		again.release()
	}},
	{"future of many goroutines", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		done := make(chan error, 32)
		for range cap(done) {
			req := l.message("both")
			f, err := m.Go(context.Background(), l.w, req)
			require.NoError(l, err)
			req.release()
			go func() {
				res, err := f.Wait(context.Background())
				if err == nil {
					res.release()
				}
				done <- err
			}()
		}
		for range cap(done) {
			require.NoError(l, <-done)
		}
	}},
	{"batch", func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		var futures []*ipc.Future[lifeMessage]
		require.NoError(l, ipc.Batch(context.Background(), l.w, func(c ipc.Caller) error {
			for i := range 20 {
				req := l.message("both")
				f, err := m.Go(context.Background(), c, req)
				require.NoError(l, err)
				futures = append(futures, f)
				require.NoError(l, lifeTold.Notify(context.Background(), c, req))
				if i%4 == 0 {
					f.Abandon()
				}
				req.release()
			}
			return nil
		}))
		for i, f := range futures {
			res, err := f.Wait(context.Background())
			if i%4 == 0 {
				require.ErrorIs(l, err, ipc.ErrAbandoned)
				continue
			}
			require.NoError(l, err)
			res.release()
		}
	}},
}

// lifeOK returns a call that succeeds.
func lifeOK(how string) func(*lifeTest, *ipc.Method[lifeMessage, lifeMessage]) {
	return func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		req := l.message(how)
		defer req.release()
		res, err := m.Call(context.Background(), l.w, req)
		require.NoError(l, err)
		res.release()
		var into lifeMessage
		require.NoError(l, m.CallInto(context.Background(), l.w, req, &into))
		into.release()
		into.release()
	}
}

// lifeFails returns a call that the handler fails.
func lifeFails(how string, opts ...ipc.CallOption) func(*lifeTest, *ipc.Method[lifeMessage, lifeMessage]) {
	return func(l *lifeTest, m *ipc.Method[lifeMessage, lifeMessage]) {
		req := l.message(how)
		defer req.release()
		_, err := m.Call(context.Background(), l.w, req, opts...)
		requireRemote(l, err)
		f, err := m.Go(context.Background(), l.w, req, opts...)
		require.NoError(l, err)
		_, err = f.Wait(context.Background())
		requireRemote(l, err)
	}
}

func requireRemote(l *lifeTest, err error) {
	l.Helper()
	var e *ipc.Error
	require.ErrorAs(l, err, &e)
	require.True(l, e.Remote(), "%v", err)
}

// giveUp gives a call up when its handler runs. open says that the handler waits for that to be
// over.
func (l *lifeTest) giveUp(m *ipc.Method[lifeMessage, lifeMessage], how string, open bool) {
	name := fmt.Sprintf("%s%d", how, rand.Uint64())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := l.message(how + " " + name)
	done := make(chan error, 1)
	go func() {
		_, err := m.Call(ctx, l.w, req)
		done <- err
	}()
	_, err := lifeGate.Call(context.Background(), l.w, "await blocked "+name)
	require.NoError(l, err)
	cancel()
	require.ErrorIs(l, <-done, context.Canceled)
	req.release() // though the handler has it
	if open {
		_, err := lifeGate.Call(context.Background(), l.w, name)
		require.NoError(l, err)
	}
}

// Whatever becomes of a call, both sides release what it had.
func TestBufferCallsRelease(t *testing.T) {
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		l := startLife(t, s)
		for _, c := range lifeCalls {
			for name, m := range map[string]*ipc.Method[lifeMessage, lifeMessage]{"do": lifeDo, "inline": lifeInline, "alone": lifeAlone} {
				t.Run(c.name+"/"+name, func(t *testing.T) {
					outer := l.T
					defer func() { l.T = outer }()
					l.T = t
					c.do(l, m)
					l.settled(c.name)
				})
			}
		}
	})
}

// What is no call of the table above.
func TestBufferMessagesRelease(t *testing.T) {
	ctx := context.Background()
	for name, do := range map[string]func(l *lifeTest, req lifeMessage){
		"unknown method": func(l *lifeTest, req lifeMessage) {
			_, err := lifeNo.Call(ctx, l.w, req)
			require.Equal(l, ipc.CodeUnimplemented, ipc.CodeOf(err))
		},
		"request of another type": func(l *lifeTest, req lifeMessage) {
			_, err := lifeDoWrong.Call(ctx, l.w, struct {
				How int
				B   ipc.Buffer
			}{1, req.B})
			requireRemote(l, err)
		},
		"response of another type": func(l *lifeTest, req lifeMessage) {
			req.How = "both"
			_, err := lifeDoExpects.Call(ctx, l.w, req)
			require.Error(l, err)
			f, err := lifeDoExpects.Go(ctx, l.w, req)
			require.NoError(l, err)
			_, err = f.Wait(ctx)
			require.Error(l, err)
		},
		"response without buffers": func(l *lifeTest, req lifeMessage) {
			req.How = "new"
			res, err := lifeDoBlind.Call(ctx, l.w, req)
			require.NoError(l, err)
			require.Equal(l, "new", res.How)
		},
		"response that cannot be encoded": func(l *lifeTest, req lifeMessage) {
			_, err := lifeBad.Call(ctx, l.w, req)
			requireRemote(l, err)
		},
		"raw": func(l *lifeTest, req lifeMessage) {
			res, err := lifeRaw.Call(ctx, l.w, req.B)
			require.NoError(l, err)
			res.Release()
			res, err = lifeRaw.Call(ctx, l.w, ipc.Buffer{})
			require.NoError(l, err)
			require.True(l, res.IsZero())
		},
		"notifications": func(l *lifeTest, req lifeMessage) {
			for _, how := range []string{"echo", "new", "both", "error", "result and error", "panic", "goexit", "released", "too many"} {
				req.How = how
				require.NoError(l, lifeTold.Notify(ctx, l.w, req))
				require.NoError(l, lifeNo.Notify(ctx, l.w, req))
				require.NoError(l, ipc.Batch(ctx, l.w, func(c ipc.Caller) error {
					for range 3 {
						require.NoError(l, lifeTold.Notify(ctx, c, req))
					}
					return nil
				}))
			}
		},
		"too many": func(l *lifeTest, req lifeMessage) {
			for range ipc.MaxBuffers {
				req.More = append(req.More, l.alloc(1))
			}
			defer req.release()
			_, err := lifeDo.Call(ctx, l.w, req)
			require.Equal(l, ipc.CodeInvalidArgument, ipc.CodeOf(err))
			_, err = lifeDo.Go(ctx, l.w, req)
			require.Equal(l, ipc.CodeInvalidArgument, ipc.CodeOf(err))
			require.Equal(l, ipc.CodeInvalidArgument, ipc.CodeOf(lifeTold.Notify(ctx, l.w, req)))
			_, err = lifeDown.Open(ctx, l.w, req)
			require.Equal(l, ipc.CodeInvalidArgument, ipc.CodeOf(err))
		},
		"the most": func(l *lifeTest, req lifeMessage) {
			req.How, req.More = "echo", append(req.More, req.B, req.B)
			for len(req.More) < ipc.MaxBuffers+2 { // of which three are the same one
				req.More = append(req.More, l.alloc(len(req.More)))
			}
			defer req.release()
			res, err := lifeDo.Call(ctx, l.w, req)
			require.NoError(l, err)
			require.Len(l, res.More, len(req.More))
			for i, b := range res.More {
				require.Equal(l, req.More[i].Bytes(), b.Bytes())
			}
			res.release()
		},
		"released before": func(l *lifeTest, req lifeMessage) {
			gone := l.alloc(10)
			gone.Release()
			req.More = append(req.More, gone)
			_, err := lifeDo.Call(ctx, l.w, req)
			require.Equal(l, ipc.CodeInvalidArgument, ipc.CodeOf(err))
			require.ErrorContains(l, err, "after Release")
		},
		"empty": func(l *lifeTest, req lifeMessage) {
			l.copied = true // what has no bytes is not in shared memory
			empty := l.alloc(0)
			defer empty.Release()
			frozen, err := empty.Freeze()
			require.NoError(l, err)
			defer frozen.Release()
			part := req.B.Slice(5, 5)
			defer part.Release()
			res, err := lifeDo.Call(ctx, l.w, lifeMessage{How: "echo", B: empty, More: []ipc.Buffer{frozen, part, {}}})
			require.NoError(l, err)
			require.False(l, res.B.IsZero())
			require.True(l, res.More[2].IsZero())
			for _, b := range append(res.More, res.B) {
				require.Zero(l, b.Len())
			}
			res.release()
			require.Panics(l, func() { req.B.Slice(2, 1) })
		},
		"kept": func(l *lifeTest, req lifeMessage) {
			req.How = "keep a"
			sum := 0
			for i := range 10 {
				req.B = filledBuffer(l.T, l.arena, 64, i)
				sum += int(req.B.Bytes()[63])
				_, err := lifeDo.Call(ctx, l.w, req)
				require.NoError(l, err)
				req.B.Release()
			}
			eventually(l, "ten are kept", func() bool { return l.arena.Stats().Buffers == 12 || l.w.Capabilities().Reconnect })
			for range 100 { // what would use their memory again
				filledBuffer(l.T, l.arena, 64, 7).Release()
			}
			res, err := lifeDo.Call(ctx, l.w, lifeMessage{How: "kept a"})
			require.NoError(l, err)
			require.Equal(l, sum, res.Size)
			_, err = lifeDo.Call(ctx, l.w, lifeMessage{How: "drop a"})
			require.NoError(l, err)
		},
		"one twice released, by many": func(l *lifeTest, req lifeMessage) {
			req.How = "both"
			res, err := lifeDo.Call(ctx, l.w, req)
			require.NoError(l, err)
			larger := res.More[0].Slice(100, 200)
			part := larger.Slice(10, 20)
			larger.Release()
			requireFilled(l.T, part, 10, 1+110*7)
			done := make(chan bool, 8)
			for range cap(done) {
				go func() {
					res.release()
					done <- true
				}()
			}
			for range cap(done) {
				<-done
			}
			requireFilled(l.T, part, 10, 1+110*7) // another holder
			part.Release()
			require.PanicsWithValue(l, "tandem: Buffer.Bytes after Release", func() { part.Bytes() })
			require.PanicsWithValue(l, "tandem: Buffer.Slice after Release", func() { part.Slice(0, 0) })
			require.PanicsWithValue(l, "tandem: Buffer.Bytes after Release", func() { part.Retain() })
			require.PanicsWithValue(l, "tandem: Buffer.Frozen after Release", func() { part.Frozen() })
			require.Panics(l, func() { _, _ = part.Freeze() })
			require.Panics(l, func() { part.Clone() })
		},
		"frozen": func(l *lifeTest, req lifeMessage) {
			frozen, err := req.B.Freeze()
			require.NoError(l, err)
			part := frozen.Slice(10, 30)
			defer part.Release()
			for range 3 {
				res, err := lifeDo.Call(ctx, l.w, lifeMessage{How: "echo", B: frozen, More: []ipc.Buffer{part}})
				require.NoError(l, err)
				require.True(l, res.B.Frozen())
				requireFilled(l.T, res.B, 3000, 1)
				requireFilled(l.T, res.More[0], 20, 71)
				res.release()
				_, err = lifeDo.Call(ctx, l.w, lifeMessage{How: "error", B: frozen})
				requireRemote(l, err)
			}
			frozen.Release()
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachBufferDriver(t, func(t *testing.T, s spawner) {
				l := startLife(t, s)
				for range 3 {
					req := l.message("echo")
					first := lifeMessage{B: req.B, More: req.More}
					do(l, req)
					first.release()
					l.settled(name)
				}
			})
		})
	}
}

// Interceptors of the caller that fail a call, before or after it was made, and those that make
// it again.
func TestBufferInterceptorsRelease(t *testing.T) {
	ctx := context.Background()
	eachBufferDriver(t, func(t *testing.T, s spawner) {
		l := startLife(t, s, worker.WithInterceptors(ipc.Interceptor{
			Call: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
				switch call.Metadata.Get("here") {
				case "refuse":
					return errWrong
				case "fail":
					_ = next(ctx)
					return errWrong
				case "panic":
					_ = next(ctx)
					panic(errWrong)
				case "twice":
					_ = next(ctx)
				}
				return next(ctx)
			},
		}))
		for _, how := range []string{"", "refuse", "fail", "panic", "twice"} {
			for range 3 {
				req := l.message("both")
				call := func() (lifeMessage, error) { return lifeDo.Call(ctx, l.w, req, ipc.WithMetadata("here", how)) }
				start := func() (lifeMessage, error) {
					f, err := lifeDo.Go(ctx, l.w, req, ipc.WithMetadata("here", how))
					if err != nil {
						return lifeMessage{}, err
					}
					return f.Wait(ctx)
				}
				for i, f := range []func() (lifeMessage, error){call, start} {
					if how == "panic" {
						require.PanicsWithValue(t, errWrong, func() { _, _ = f() })
						continue
					}
					res, err := f()
					switch {
					case how == "" || how == "twice" && i == 0:
						require.NoError(t, err)
						requireFilled(t, res.More[0], 3000, 1)
						res.release()
					default:
						require.Error(t, err)
					}
				}
				f, err := lifeDo.Go(ctx, l.w, req)
				require.NoError(t, err)
				req.release()
				f.Abandon()
			}
			l.settled(how)
		}
	})
}

// Streams that end before all of their items were read, in all ways.
func TestBufferStreamsRelease(t *testing.T) {
	ctx := context.Background()
	wrapped := worker.WithInterceptors(ipc.Interceptor{Call: func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error { return next(ctx) }})
	for name, do := range map[string]func(l *lifeTest, req lifeMessage){
		"down": func(l *lifeTest, req lifeMessage) {
			for m, err := range lifeDown.Stream(ctx, l.w, req) {
				require.NoError(l, err)
				requireFilled(l.T, m.More[0], 3000, 1)
				require.Equal(l, m.Size+1, m.B.Len())
				m.release()
			}
		},
		"down, left": func(l *lifeTest, req lifeMessage) {
			for m, err := range lifeDown.Stream(ctx, l.w, req) {
				require.NoError(l, err)
				m.release()
				if m.Size == 3 {
					break
				}
			}
		},
		"down, closed unread": func(l *lifeTest, req lifeMessage) {
			st, err := lifeDown.Open(ctx, l.w, req)
			require.NoError(l, err)
			st.Close()
		},
		"down, canceled": func(l *lifeTest, req lifeMessage) {
			ctx, cancel := context.WithCancel(ctx)
			st, err := lifeDown.Open(ctx, l.w, req)
			require.NoError(l, err)
			m, err := st.Receive(ctx)
			require.NoError(l, err)
			cancel()
			m.release()
		},
		"down, of another type": func(l *lifeTest, req lifeMessage) {
			st, err := lifeDownWrong.Open(ctx, l.w, struct {
				How int
				B   ipc.Buffer
			}{1, req.B})
			require.NoError(l, err)
			_, err = st.Receive(ctx)
			requireRemote(l, err)
		},
		"down, items of another type": func(l *lifeTest, req lifeMessage) {
			st, err := lifeDownExpects.Open(ctx, l.w, req)
			require.NoError(l, err)
			_, err = st.Receive(ctx)
			require.Error(l, err)
		},
		"down, items with buffers of another type": func(l *lifeTest, req lifeMessage) {
			st, err := ipc.NewServerStream[lifeMessage, struct {
				How int
				B   ipc.Buffer
			}]("life.down").Open(ctx, l.w, req)
			require.NoError(l, err)
			_, err = st.Receive(ctx)
			require.Error(l, err)
		},
		"down, failed": func(l *lifeTest, req lifeMessage) {
			req.How = "error"
			n := 0
			for m, err := range lifeDown.Stream(ctx, l.w, req) {
				if n++; err != nil {
					requireRemote(l, err)
					break
				}
				m.release()
			}
			require.Equal(l, req.Size+1, n)
		},
		"up": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			for range 20 {
				require.NoError(l, st.Send(ctx, req))
			}
			res, err := st.CloseAndReceive(ctx)
			require.NoError(l, err)
			requireFilled(l.T, res.B, 3000, 1)
			res.release()
		},
		"up, nothing": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			res, err := st.CloseAndReceive(ctx)
			require.NoError(l, err)
			require.Equal(l, 100, res.B.Len())
			res.release()
		},
		"up, early": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			req.How = "early"
			for range 100 {
				if st.Send(ctx, req) != nil {
					break
				}
			}
			res, err := st.CloseAndReceive(ctx)
			require.NoError(l, err)
			requireFilled(l.T, res.B, 3000, 1)
			res.release()
		},
		"up, failed": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			req.How = "error"
			for range 10 {
				if st.Send(ctx, req) != nil {
					break
				}
			}
			_, err = st.CloseAndReceive(ctx)
			requireRemote(l, err)
		},
		"up, given up": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			for range 10 {
				require.NoError(l, st.Send(ctx, req))
			}
			st.Close()
		},
		"up, response not received": func(l *lifeTest, req lifeMessage) {
			st, err := lifeUp.Open(ctx, l.w)
			require.NoError(l, err)
			defer st.Close()
			require.NoError(l, st.Send(ctx, req))
			for range 20 { // in the midst of which ctx ends
				short, cancel := context.WithTimeout(ctx, time.Duration(rand.Int64N(int64(100*time.Microsecond))))
				res, err := st.CloseAndReceive(short)
				cancel()
				if err == nil {
					requireFilled(l.T, res.B, 3000, 1) // though an earlier call has received it
					res.release()
					return
				}
			}
			st.Close()
		},
		"both": func(l *lifeTest, req lifeMessage) {
			st, err := lifeBoth.Open(ctx, l.w)
			require.NoError(l, err)
			for range 20 {
				require.NoError(l, st.Send(ctx, req))
				m, err := st.Receive(ctx)
				require.NoError(l, err)
				requireFilled(l.T, m.B, 3000, 1)
				m.release()
			}
			require.NoError(l, st.CloseSend(ctx))
			_, err = st.Receive(ctx)
			require.Error(l, err)
		},
		"both, unread": func(l *lifeTest, req lifeMessage) {
			st, err := lifeBoth.Open(ctx, l.w)
			require.NoError(l, err)
			for range 3 { // which the windows have room for
				require.NoError(l, st.Send(ctx, req))
			}
			m, err := st.Receive(ctx)
			require.NoError(l, err)
			st.Close()
			requireFilled(l.T, m.B, 3000, 1) // what was received stays
			m.release()
		},
		"both, early": func(l *lifeTest, req lifeMessage) {
			st, err := lifeBoth.Open(ctx, l.w)
			require.NoError(l, err)
			req.How = "early"
			for range 10 {
				if st.Send(ctx, req) != nil {
					break
				}
			}
			for m, err := range st.All(ctx) {
				require.NoError(l, err)
				m.release()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachBufferDriver(t, func(t *testing.T, s spawner) {
				for kind, opts := range map[string][]worker.Option{"plain": nil, "wrapped": {wrapped}} {
					t.Run(kind, func(t *testing.T) {
						l := startLife(t, s, opts...)
						for range 3 {
							req := l.message("")
							req.Size = 30
							do(l, req)
							req.release()
							l.settled(name)
						}
					})
				}
			})
		})
	}
}

// A pool sends an idempotent call again, though its worker was killed, and a call that was
// started when its caller has released the buffer.
func TestBufferPoolReleases(t *testing.T) {
	ctx := context.Background()
	test := func(t *testing.T, newPool func(opts ...pool.Option) (lifePool, error)) {
		arena := newArena(t, ipc.ArenaOptions{})
		p, err := newPool(pool.WithWorkers(worker.WithArena(arena), worker.WithRetry(10), worker.WithStartTimeout(time.Minute)))
		require.NoError(t, err)
		defer p.Close()
		l := &lifeTest{T: t, arena: arena}
		for range 3 {
			var futures []*ipc.Future[lifeMessage]
			for range 10 {
				req := l.message("both")
				f, err := lifeSafe.Go(ctx, p, req)
				require.NoError(t, err)
				req.release() // it was sent
				futures = append(futures, f)
			}
			if st, err := lifeCount.Call(ctx, p, ""); err == nil {
				require.NoError(t, syscall.Kill(st.PID, syscall.SIGKILL))
			}
			for i, f := range futures {
				if i%3 == 0 {
					f.Abandon()
					continue
				}
				res, err := f.Wait(ctx)
				require.NoError(t, err)
				requireFilled(t, res.More[0], 3000, 1)
				res.release()
			}
		}
	}
	t.Run("shm", func(t *testing.T) {
		test(t, func(opts ...pool.Option) (lifePool, error) {
			return pool.New(ctx, 2, worker.Self("life"), shm.Driver{}, opts...)
		})
	})
	t.Run("socket", func(t *testing.T) {
		test(t, func(opts ...pool.Option) (lifePool, error) {
			return pool.New(ctx, 2, worker.Self("life"), socket.Driver{}, opts...)
		})
	})
}

type lifePool interface {
	ipc.Caller
	Close() error
}

// Close with calls that have buffers, and whose handlers return, heed their contexts, or are
// refused.
func TestBufferCloseReleases(t *testing.T) {
	ctx := context.Background()
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		arena := newArena(t, ipc.ArenaOptions{})
		for i := range 3 {
			leaves(t, func() error {
				w, err := s.spawn(ctx, worker.Self("life"), worker.WithArena(arena), worker.WithGrace(200*time.Millisecond))
				require.NoError(t, err)
				l := &lifeTest{T: t, arena: arena, w: w}
				ends := make(chan error, 60)
				for n := range cap(ends) {
					req := l.message([]string{"both", "block close", "error"}[n%3])
					go func() {
						defer req.release()
						res, err := lifeDo.Call(ctx, w, req)
						res.release()
						ends <- err
					}()
				}
				if i%2 == 0 {
					_, err := lifeGate.Call(ctx, w, "await blocked close")
					require.NoError(t, err)
				}
				err = w.Close()
				for range cap(ends) {
					<-ends
				}
				eventually(t, "all are free", func() bool { s := arena.Stats(); return s.Buffers == 0 && len(s.Holders) == 0 })
				return err
			})
		}
	})
}

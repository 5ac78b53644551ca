//go:build unix

package worker_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// hasty reconnects soon.
var hasty = worker.Reconnect{Delay: time.Millisecond, MaxDelay: 10 * time.Millisecond}

// A client gives up when another service listens that does not agree with it, whoever finds out.
func TestServiceGivesUp(t *testing.T) {
	for i, d := range serviceDrivers {
		for what, next := range map[string]struct {
			driver serviceDriver
			codec  ipc.Codec
		}{"codec": {d, ipc.JSON}, "driver": {serviceDrivers[1-i], ipc.CBOR}} {
			t.Run(d.Name()+"/"+what, func(t *testing.T) {
				name := socketPath(t)
				stop := serveHere(t, d, name, drivers.ListenConfig{})
				events := make(chan worker.Event, 1000)
				c := dial(t, d, name, worker.WithReconnect(hasty), worker.WithEvents(func(e worker.Event) { events <- e }))
				_, err := add.Call(t.Context(), c, pair{1, 2})
				require.NoError(t, err)
				require.NoError(t, stop())

				l, err := next.driver.Listen(name, drivers.ListenConfig{})
				require.NoError(t, err)
				s := worker.NewServer()
				s.RequireCodec(next.codec)
				ctx, end := context.WithCancel(t.Context())
				served := make(chan error)
				go func() { served <- s.ServeListener(ctx, l) }()
				_, err = add.Call(t.Context(), c, pair{1, 2}, ipc.WithTimeout(20*time.Second))
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				require.ErrorContains(t, err, "given up")
				require.ErrorContains(t, err, what)
				for e := range events {
					if e.Kind == worker.EventGaveUp {
						require.ErrorContains(t, e.Err, what)
						break
					}
				}
				require.NoError(t, c.Close())
				end()
				require.NoError(t, <-served)
			})
		}
	}
}

// failingListener is a listener that fails when fail is closed.
type failingListener struct {
	drivers.Listener
	fail chan struct{}
}

var errListener = errors.New("the listener has failed")

func (l failingListener) Serve(ctx context.Context, agree func(drivers.Hello) (drivers.Hello, error), serve func(context.Context, drivers.Link)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		<-l.fail
		stop()
	}()
	return errors.Join(errListener, l.Listener.Serve(ctx, agree, serve))
}

// When a listener fails, the clients leave, and ServeListener says why.
func TestServiceListenerFails(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			l, err := d.Listen(socketPath(t), drivers.ListenConfig{})
			require.NoError(t, err)
			failing := failingListener{l, make(chan struct{})}
			s := worker.NewServer()
			handleTest(s)
			served := make(chan error, 1)
			go func() { served <- s.ServeListener(t.Context(), failing) }()
			c := dial(t, d, l.Addr().String())
			_, err = add.Call(t.Context(), c, pair{1, 2})
			require.NoError(t, err)
			close(failing.fail)
			require.ErrorIs(t, within(t, served), errListener)
			_, err = add.Call(t.Context(), c, pair{1, 2})
			require.ErrorIs(t, err, ipc.ErrPeerGone)
		})
	}
}

// within returns what comes, and fails the test if nothing does.
func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("it hangs")
	}
	return v
}

// After a goodbye a client that does not reconnect makes no more calls, and does not keep the service.
func TestServiceGoodbyeToPlainClient(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			stop := serveHere(t, d, name, drivers.ListenConfig{}, worker.WithGrace(time.Hour))
			c := dial(t, d, name)
			began := make(chan struct{})
			failed := make(chan error, 4)
			var once sync.Once
			for range cap(failed) {
				go func() {
					for {
						if _, err := add.Call(t.Context(), c, pair{1, 2}); err != nil {
							failed <- err
							return
						}
						once.Do(func() { close(began) })
					}
				}()
			}
			<-began
			stopped := make(chan error, 1)
			go func() { stopped <- stop() }()
			for range cap(failed) {
				require.ErrorIs(t, within(t, failed), ipc.ErrPeerGone)
			}
			require.NoError(t, within(t, stopped))
		})
	}
}

// A service that says goodbye to everybody at once is not called again and again without a pause.
func TestServiceSaysGoodbyeAtOnce(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			l, err := d.Listen(name, drivers.ListenConfig{})
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() {
				served <- l.Serve(ctx, func(remote drivers.Hello) (drivers.Hello, error) {
					return drivers.Hello{Codec: remote.Codec}, nil
				}, func(ctx context.Context, link drivers.Link) {
					defer link.Close()
					_ = link.Send(ctx, &drivers.Frame{Kind: drivers.KindGoodbye})
					var f drivers.Frame
					link.Arm()
					for {
						if ok, err := link.Next(&f); err != nil || ok { // its goodbye, or its end
							return
						}
						link.Sleep(link.Ready)
					}
				})
			}()
			paused := make(chan struct{})
			var once sync.Once
			c := dial(t, d, name, worker.WithReconnect(worker.Reconnect{Delay: time.Millisecond, MaxDelay: time.Hour}), worker.WithEvents(func(e worker.Event) {
				if e.Kind == worker.EventReconnecting && e.Err == nil && e.Delay > 5*time.Millisecond {
					once.Do(func() { close(paused) })
				}
			}))
			within(t, paused)
			require.NoError(t, c.Close())
			stop()
			require.NoError(t, within(t, served))
		})
	}
}

// Close of a client does not wait for a subscription, and a goodbye ends it.
func TestServiceEndsSubscriptions(t *testing.T) {
	for _, d := range serviceDrivers {
		for _, end := range []string{"close", "goodbye"} {
			t.Run(d.Name()+"/"+end, func(t *testing.T) {
				s := startService(t, d, socketPath(t)) // its grace is a minute
				c := dial(t, d, s.name, worker.WithGrace(time.Hour), worker.WithReconnect(hasty))
				openTopic(t, dial(t, d, s.name), topicOptions{})
				sub, err := ticks.Open(t.Context(), c)
				require.NoError(t, err)
				done := make(chan error, 1)
				if end == "close" {
					go func() { done <- c.Close() }()
					require.NoError(t, within(t, done))
				} else {
					next := startService(t, d, s.name, "takeover")
					require.Equal(t, "served <nil>\n", s.line())
					_, err := add.Call(t.Context(), c, pair{1, 2})
					require.NoError(t, err)
					defer next.stop()
					defer c.Close()
				}
				go func() {
					_, err := sub.Receive(t.Context())
					done <- err
				}()
				err = within(t, done)
				if end == "goodbye" {
					require.ErrorIs(t, err, ipc.ErrPeerGone)
				} else {
					require.ErrorIs(t, err, ipc.ErrClosed)
				}
			})
		}
	}
}

// However often a service hands over while a client makes quick calls, none is lost: what is not begun goes
// to the next.
func TestServiceTakeOverQuickCalls(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			var clients []*worker.ServiceClient
			var made atomic.Int64
			ctx, end := context.WithCancel(t.Context())
			var calling sync.WaitGroup
			serve := func() (served chan error) {
				l, err := d.Listen(name, drivers.ListenConfig{TakeOver: true})
				require.NoError(t, err)
				s := worker.NewServer()
				handleTest(s)
				served = make(chan error, 1)
				go func() { served <- s.ServeListener(context.WithoutCancel(ctx), l, worker.WithGrace(time.Hour)) }()
				return served
			}
			last := serve()
			for range 4 {
				c := dial(t, d, name, worker.WithReconnect(hasty))
				clients = append(clients, c)
				for range 4 {
					calling.Go(func() {
						for ctx.Err() == nil {
							if n, err := add.Call(t.Context(), c, pair{1, 2}); n != 3 || err != nil {
								t.Errorf("%d, %v", n, err)
								return
							}
							made.Add(1)
						}
					})
				}
			}
			for range 40 {
				before := made.Load()
				eventually(t, "calls", func() bool { return made.Load() > before+20 || t.Failed() })
				next := serve()
				require.NoError(t, within(t, last))
				last = next
			}
			end()
			calling.Wait()
			for _, c := range clients {
				require.NoError(t, c.Close())
			}
			l, err := d.Listen(name, drivers.ListenConfig{TakeOver: true})
			require.NoError(t, err)
			require.NoError(t, within(t, last))
			require.NoError(t, l.Close())
		})
	}
}

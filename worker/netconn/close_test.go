//go:build unix

package netconn_test

import (
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/netconn"
)

// Each direction ends by itself.
func TestHalfClose(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		_, err := p.Write(pattern(1000, 0))
		require.NoError(t, err)
		require.NoError(t, p.CloseWrite())
		_, err = p.Write([]byte{1})
		require.ErrorIs(t, err, syscall.EPIPE)
		require.Equal(t, done{N: 1000, Good: true, Err: "eof"}, p.do("read", 1001))
		require.Equal(t, done{Good: true, Err: "eof"}, p.do("read", 1))
		writing := p.begin("write", 3<<20)
		p.read(3<<20, 0)
		require.Equal(t, done{N: 3 << 20}, writing())
		require.Empty(t, p.do("close write", 0).Err)
		for range 3 {
			_, err = p.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		}
		require.NoError(t, p.Close())
		require.Empty(t, p.do("close", 0).Err)
	})
}

// CloseWrite ends a Write that waits, and what it has sent comes before the end.
func TestCloseWriteEndsWrites(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		var mu sync.Mutex
		sent := 0
		ends := make(chan error, 3)
		for range cap(ends) {
			go func() {
				n, err := p.Write(make([]byte, 16<<20))
				mu.Lock()
				sent += n
				mu.Unlock()
				ends <- err
			}()
		}
		blocked(t, "Conn).Write", 1)
		within(t, "CloseWrite", func() { require.NoError(t, p.CloseWrite()) })
		for range cap(ends) {
			require.ErrorIs(t, <-ends, syscall.EPIPE)
		}
		require.Equal(t, sent, p.do("read", 32<<20).N)
	})
}

// After CloseRead the other side can write what it likes.
func TestCloseRead(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		ends := make(chan error, 3)
		for range cap(ends) {
			go func() {
				_, err := p.Read(make([]byte, 1))
				ends <- err
			}()
		}
		blocked(t, "Conn).Read", 1)
		require.NoError(t, p.CloseRead())
		for range cap(ends) {
			require.Equal(t, io.EOF, <-ends)
		}
		require.Equal(t, done{N: 10 << 20}, p.do("write", 10<<20))
		_, err := p.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		reading := p.begin("read", 3<<20)
		_, err = p.Write(pattern(3<<20, 0))
		require.NoError(t, err)
		require.Equal(t, done{N: 3 << 20, Good: true}, reading())
		require.NoError(t, p.Close())
		require.Contains(t, []string{"broken", "reset"}, p.do("write on", 10_000).Err)
	})
}

// Close ends what waits, on both sides.
func TestClose(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		ends := make(chan error, 4)
		for range 2 {
			go func() {
				_, err := p.Read(make([]byte, 1))
				ends <- err
			}()
			go func() {
				_, err := p.Write(make([]byte, 16<<20))
				ends <- err
			}()
		}
		blocked(t, "Conn).Read", 1)
		blocked(t, "Conn).Write", 1)
		within(t, "Close", func() { require.NoError(t, p.Close()) })
		for range cap(ends) {
			require.ErrorIs(t, <-ends, net.ErrClosed)
		}
		_, err := p.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = p.Write(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, p.SetDeadline(time.Now()), net.ErrClosed)
		require.ErrorIs(t, p.CloseRead(), net.ErrClosed)
		require.ErrorIs(t, p.CloseWrite(), net.ErrClosed)
		require.ErrorIs(t, p.Close(), net.ErrClosed)
		require.Equal(t, "eof", p.do("read", 32<<20).Err)
		require.Contains(t, []string{"broken", "reset"}, p.do("write on", 1000).Err)
	})
}

// What was written before Close arrives, however late it is read.
func TestCloseLosesNothing(t *testing.T) {
	eachPair(t, func(t *testing.T, _ *pair, more func() *pair) {
		for _, size := range []int{0, 1, 4000, 8000} {
			p := more()
			require.Empty(t, p.do("write", 5000).Err) // which is not read
			_, err := p.Write(pattern(size, 0))
			require.NoError(t, err)
			require.NoError(t, p.Close())
			require.Equal(t, done{N: size, Good: true, Err: "eof"}, p.do("read", 10_000))
			require.Empty(t, p.do("close", 0).Err)
		}
	})
}

// A Read that Close ends gets nothing that the other side has sent because of the Close.
func TestReadGetsNoAnswerToClose(t *testing.T) {
	eachPair(t, func(t *testing.T, _ *pair, more func() *pair) {
		for range 50 {
			p := more()
			answer := p.begin("answer", 0)
			ended := make(chan error, 1)
			go func() {
				_, err := p.Read(make([]byte, 1))
				ended <- err
			}()
			blocked(t, "Conn).Read", 1)
			require.NoError(t, p.Close())
			require.ErrorIs(t, <-ended, net.ErrClosed)
			require.Equal(t, "eof", answer().Err)
			require.Empty(t, p.do("close", 0).Err)
		}
	})
}

// A process that ends leaves what it has written, and then errors that say so.
func TestPeerDies(t *testing.T) {
	for name := range starters {
		for _, dialled := range []bool{true, false} {
			t.Run(map[bool]string{true: name + "/dialled", false: name + "/accepted"}[dialled], func(t *testing.T) {
				w := starters[name](t)
				connect := func() *pair { return dialPair(t, w) }
				if !dialled {
					l := netconn.Listen(w, "back")
					connect = func() *pair { return acceptPair(t, w, l) }
				}
				unread, reading, writing := connect(), connect(), connect()
				require.Empty(t, unread.do("write", 5000).Err)
				ends := make(chan error, 2)
				go func() {
					_, err := reading.Read(make([]byte, 1))
					ends <- err
				}()
				go func() {
					_, err := writing.Write(make([]byte, 64<<20))
					ends <- err
				}()
				blocked(t, "Conn).Read", 1)
				blocked(t, "Conn).Write", 1)

				// A process that is stopped holds everything up, and deadlines count.
				stop(t, w)
				require.NoError(t, unread.SetWriteDeadline(time.Now().Add(soon)))
				_, err := unread.Write(make([]byte, 64<<20))
				requireTimeout(t, err)
				require.NoError(t, reading.SetReadDeadline(time.Now().Add(soon)))
				requireTimeout(t, <-ends)
				require.NoError(t, reading.SetReadDeadline(time.Time{}))
				go func() {
					_, err := reading.Read(make([]byte, 1))
					ends <- err
				}()
				within(t, "CloseWrite", func() { require.NoError(t, unread.CloseWrite()) })

				require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
				for range 2 {
					require.ErrorIs(t, <-ends, ipc.ErrPeerGone)
				}
				unread.read(5000, 0)
				_, err = unread.Read(make([]byte, 1))
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				_, err = reading.Write([]byte{1})
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				for _, p := range []*pair{unread, reading, writing} {
					require.NoError(t, p.Close())
				}
				_, err = netconn.Dial(t.Context(), w, "held")
				require.ErrorIs(t, err, ipc.ErrPeerGone)
			})
		}
	}
}

// A process that is stopped and goes on again has lost nothing.
func TestPeerIsStopped(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		reading := p.begin("read", 8<<20)
		stop(t, p.w)
		written := make(chan error, 1)
		go func() {
			_, err := p.Write(pattern(8<<20, 0))
			written <- err
		}()
		blocked(t, "Conn).Write", 1)
		require.NoError(t, syscall.Kill(p.w.PID(), syscall.SIGCONT))
		require.NoError(t, <-written)
		require.Equal(t, done{N: 8 << 20, Good: true}, reading())
	})
}

// A connection ends with its link, on the side of the worker, too, which keeps what has come.
func TestDisconnect(t *testing.T) {
	w := start(t, socket.Driver{}, nil)
	l := netconn.Listen(w, "back")
	for range 3 {
		for _, dialled := range []bool{true, false} {
			var p *pair
			if dialled {
				p = dialPair(t, w)
			} else {
				p = acceptPair(t, w, l)
			}
			_, err := p.Write(pattern(1000, 0))
			require.NoError(t, err)
			require.Equal(t, done{N: 10, Good: true}, p.do("read", 10))
			require.NoError(t, w.Channel().Disconnect())
			_, err = p.Read(make([]byte, 1))
			require.ErrorIs(t, err, ipc.ErrDisconnected)
			_, err = p.Write(make([]byte, 1))
			require.ErrorIs(t, err, ipc.ErrDisconnected)
			require.NoError(t, w.Channel().Reconnect(t.Context()))
			d := p.do("read", 1000)
			require.Equal(t, 990, d.N)
			require.True(t, d.Good)
			require.Contains(t, []string{"gone", "disconnected"}, d.Err)
			require.Contains(t, []string{"gone", "disconnected"}, p.do("write", 1).Err)
			require.Empty(t, p.do("close", 0).Err)
			require.NoError(t, p.Close())
		}
	}
}

// Connections that are closed leave nothing on either side, in whatever way they end.
func TestClosedConnectionsLeaveNothing(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, more func() *pair) {
		require.NoError(t, p.Close())
		require.Empty(t, p.do("close", 0).Err)
		statsOf := func() stats {
			s, err := heap.Call(t.Context(), p.w, 0)
			require.NoError(t, err)
			return s
		}
		before, here := statsOf().Goroutines, goroutines()
		endings := []func(p *pair){
			func(p *pair) { p.Close(); p.do("close", 0) },
			func(p *pair) { p.do("close", 0); p.Close() },
			func(p *pair) { p.CloseWrite(); p.do("close write", 0); p.Close(); p.do("close", 0) },
			func(p *pair) { p.CloseRead(); p.do("close read", 0); p.do("close", 0); p.Close() },
			func(p *pair) { p.do("write", 5000); p.Write(make([]byte, 5000)); p.Close(); p.do("close", 0) },
			func(p *pair) { p.do("write", 5000); p.do("close", 0); p.Read(make([]byte, 1)); p.Close() },
			func(p *pair) { writing := p.begin("write on", 5000); p.Close(); writing(); p.do("close", 0) },
			func(p *pair) { writing := p.begin("write on", 5000); p.do("close", 0); writing(); p.Close() },
		}
		// Each is done so often that it leaves as many goroutines as that, if it leaves one. A few come and go with the calls that look.
		const times = 5
		for range times {
			for _, ends := range endings {
				ends(more())
			}
		}
		eventually(t, "the goroutines of the worker have ended", func() bool { return statsOf().Goroutines < before+times })
		eventually(t, "those of the host have ended", func() bool { return goroutines() < here+times })
	})
}

// The context of Dial is for dialling, and does not end the connection.
func TestContextOfDial(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := netconn.Dial(ctx, w, "echo")
		require.NoError(t, err)
		defer c.Close()
		cancel()
		_, err = c.Write([]byte("still"))
		require.NoError(t, err)
		b := make([]byte, 5)
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		require.Equal(t, "still", string(b))

		_, err = netconn.Dial(ctx, w, "echo")
		require.ErrorIs(t, err, context.Canceled)
		stop(t, w)
		ctx, cancel = context.WithTimeout(t.Context(), soon)
		defer cancel()
		_, err = netconn.Dial(ctx, w, "echo")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
	})
}

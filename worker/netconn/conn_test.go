//go:build unix

package netconn_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

// A reader that does not read holds up its own writer, after so many bytes as its window has, and
// no other connection.
func TestSlowReaderHoldsUpItsWriter(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, more func() *pair) {
		const size = 64 << 20
		written := make(chan error, 1)
		go func() {
			_, err := p.Write(pattern(size, 0))
			written <- err
		}()
		blocked(t, "Conn).Write", 1)
		other := more()
		for at := int64(0); at < 2<<20; at += 100_000 {
			reading := other.begin("read", 100_000)
			_, err := other.Write(pattern(100_000, at))
			require.NoError(t, err)
			require.Equal(t, done{N: 100_000, Good: true}, reading())
		}
		select {
		case err := <-written:
			t.Fatalf("64 MiB were written that nobody has read: %v", err)
		default:
		}
		require.Equal(t, done{N: size, Good: true}, p.do("read", size))
		require.NoError(t, <-written)
	})
}

// What a writer may send that nobody reads is bounded.
func TestUnreadBytesAreBounded(t *testing.T) {
	const window = 128 << 10
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		wait := p.begin("write", 4<<20)
		p.read(2<<20, 0) // so that the window has grown
		require.NoError(t, p.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := p.Write(make([]byte, 4<<20))
		requireTimeout(t, err)
		require.LessOrEqual(t, n, drivers.DefaultStreamWindow)
		p.read(2<<20, 2<<20)
		require.Equal(t, 4<<20, wait().N)
	}, worker.WithStreamWindow(window))
}

// Bytes that cross in both directions at once, in writes and reads of all sizes, are those that
// were written.
func TestBothDirectionsAtOnce(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c, err := netconn.Dial(t.Context(), w, "echo")
		require.NoError(t, err)
		defer c.Close()
		const size = 8 << 20
		go func() {
			for at := 0; at < size; {
				n := min(1+rand.IntN(1<<rand.IntN(18)), size-at)
				if _, err := c.Write(pattern(n, int64(at))); err != nil {
					t.Error(err)
					return
				}
				at += n
			}
			if err := c.(*netconn.Conn).CloseWrite(); err != nil {
				t.Error(err)
			}
		}()
		n, good, err := readPattern(c, size+1, 0)
		require.Equal(t, io.EOF, err)
		require.Equal(t, size, n)
		require.True(t, good)
	})
}

// Writes of several goroutines arrive one after the other, and each whole.
func TestWritesAreNotMixed(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c, err := netconn.Dial(t.Context(), w, "echo")
		require.NoError(t, err)
		defer c.Close()
		const writers, records = 8, 100
		var wg sync.WaitGroup
		for id := range writers {
			wg.Go(func() {
				for i := range records {
					body := bytes.Repeat([]byte{byte(id), byte(i)}, 1+i*i*4)
					record := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
					if _, err := c.Write(append(record, body...)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		next := make([]int, writers)
		for range writers * records {
			var size [4]byte
			_, err := io.ReadFull(c, size[:])
			require.NoError(t, err)
			body := make([]byte, binary.LittleEndian.Uint32(size[:]))
			_, err = io.ReadFull(c, body)
			require.NoError(t, err)
			id, i := body[0], body[1]
			require.Equal(t, next[id], int(i), "the records of a writer are in order")
			require.Equal(t, bytes.Repeat([]byte{id, i}, 1+int(i)*int(i)*4), body)
			next[id]++
		}
		wg.Wait()
	})
}

// Several goroutines that read share what comes: each byte is read once.
func TestReadersShareWhatComes(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		const size = 1 << 20
		writing := p.begin("write", size)
		var wg sync.WaitGroup
		var mu sync.Mutex
		sum, n := 0, 0
		for range 4 {
			wg.Go(func() {
				b := make([]byte, 1000)
				for {
					k, err := p.Read(b)
					mu.Lock()
					for _, v := range b[:k] {
						sum += int(v)
					}
					n += k
					mu.Unlock()
					if err != nil {
						if err != io.EOF {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		require.Equal(t, done{N: size}, writing())
		require.Empty(t, p.do("close write", 0).Err)
		wg.Wait()
		want := 0
		for _, v := range pattern(size, 0) {
			want += int(v)
		}
		require.Equal(t, size, n)
		require.Equal(t, want, sum)
	})
}

// failingWriter takes so many bytes, and then fails.
type failingWriter struct {
	bytes.Buffer
	left int
}

var errFull = errors.New("full")

func (w *failingWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		n, _ := w.Buffer.Write(b[:w.left])
		w.left = 0
		return n, errFull
	}
	w.left -= len(b)
	return w.Buffer.Write(b)
}

// WriteTo loses nothing that its writer has not taken.
func TestWriteTo(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		const size = 300_000
		writing := p.begin("write", size)
		w := &failingWriter{left: 12_345}
		n, err := p.WriteTo(w)
		require.Equal(t, errFull, err)
		require.EqualValues(t, 12_345, n)
		require.True(t, bytes.Equal(pattern(12_345, 0), w.Bytes()))
		p.read(1000, 12_345)
		require.NoError(t, p.SetReadDeadline(time.Now().Add(-1)))
		_, err = p.WriteTo(w)
		requireTimeout(t, err)
		require.NoError(t, p.SetReadDeadline(time.Time{}))
		var rest bytes.Buffer
		ended := make(chan done, 1)
		go func() {
			writing()
			ended <- p.do("close write", 0)
		}()
		n, err = io.Copy(&rest, p)
		require.Empty(t, (<-ended).Err)
		require.NoError(t, err)
		require.EqualValues(t, size-13_345, n)
		require.True(t, bytes.Equal(pattern(size-13_345, 13_345), rest.Bytes()))
	})
}

// A writer that WriteTo waits for holds up neither Close nor the deadline's setters.
func TestCloseWhileWriteToWaitsForItsWriter(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		require.Empty(t, p.do("write", 10).Err)
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			_, err := p.WriteTo(w)
			ended <- err
		}()
		_, err := r.Read(make([]byte, 1)) // it is in the middle of Write
		require.NoError(t, err)
		within(t, "Close", func() {
			require.NoError(t, p.SetDeadline(time.Now()))
			require.NoError(t, p.Close())
		})
		require.NoError(t, r.Close())
		require.ErrorIs(t, <-ended, io.ErrClosedPipe)
	})
}

// ReadFrom sends what a reader has, and returns the error of whoever fails.
func TestReadFrom(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		reading := p.begin("read", 500_000)
		n, err := io.Copy(p.Conn, struct{ io.Reader }{bytes.NewReader(pattern(500_000, 0))})
		require.NoError(t, err)
		require.EqualValues(t, 500_000, n)
		require.Equal(t, done{N: 500_000, Good: true}, reading())
		n, err = p.ReadFrom(io.MultiReader(strings.NewReader("x"), failingReader{}))
		require.Equal(t, errFull, err)
		require.EqualValues(t, 1, n)
		require.NoError(t, p.SetWriteDeadline(time.Unix(1, 0)))
		_, err = p.ReadFrom(strings.NewReader("x"))
		requireTimeout(t, err)
	})
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errFull }

// Addresses name the listener, and the processes that are known.
func TestAddresses(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		name := map[bool]string{true: "held", false: "back"}[p.dialled]
		require.Equal(t, netconn.Addr{Name: name, PID: os.Getpid()}, p.LocalAddr())
		remote := netconn.Addr{Name: name}
		if !p.dialled {
			remote.PID = p.w.PID()
			require.Equal(t, fmt.Sprintf("back@%d", p.w.PID()), p.RemoteAddr().String())
		}
		require.Equal(t, remote, p.RemoteAddr())
		require.Equal(t, "tandem", p.RemoteAddr().Network())
		var _ net.Conn = p.Conn
	})
}

// Items of an interceptor that knows nothing of parts carry the bytes as well.
func TestConnectionsWithInterceptors(t *testing.T) {
	var items sync.Map
	wrap := ipc.Interceptor{Stream: func(_ context.Context, call *ipc.Call, s ipc.Stream) ipc.Stream {
		items.Store(call.Method.Name, true)
		return plainStream{s}
	}}
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		reading := p.begin("read", 3<<20)
		_, err := p.Write(pattern(3<<20, 0))
		require.NoError(t, err)
		require.Equal(t, done{N: 3 << 20, Good: true}, reading())
		writing := p.begin("write", 3<<20)
		p.read(3<<20, 0)
		require.Equal(t, done{N: 3 << 20}, writing())
		require.NoError(t, p.SetWriteDeadline(time.Now().Add(soon)))
		n := 0
		for err == nil {
			var k int
			k, err = p.Write(pattern(10_000, int64(3<<20+n)))
			n += k
		}
		requireTimeout(t, err)
		require.NoError(t, p.SetWriteDeadline(time.Time{}))
		require.NoError(t, p.CloseWrite())
		require.Equal(t, done{N: n, Good: true, Err: "eof"}, p.do("read", n+1))
	}, worker.WithInterceptors(wrap))
	_, ok := items.Load("netconn.held")
	require.True(t, ok)
}

// plainStream is a stream that is nothing else.
type plainStream struct{ ipc.Stream }

// A connection in use allocates nothing, neither here nor in the worker.
func TestConnectionsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself")
	}
	eachDriver(t, func(t *testing.T, w client) {
		c, err := netconn.Dial(t.Context(), w, "echo")
		require.NoError(t, err)
		defer c.Close()
		for _, size := range []int{64, 5000, 60_000} {
			out, in := make([]byte, size), make([]byte, size)
			made := testing.AllocsPerRun(2000, func() {
				if _, err := c.Write(out); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, in); err != nil {
					t.Fatal(err)
				}
			})
			require.Less(t, made, 0.5, "%d bytes", size)
		}
	})
}

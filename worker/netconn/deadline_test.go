//go:build unix

package netconn_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// soon is how long a deadline takes that is waited for.
const soon = 5 * time.Millisecond

func requireTimeout(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var e net.Error
	require.True(t, errors.As(err, &e) && e.Timeout())
}

// A deadline that has passed ends Reads at once, also if there is something to read, which a later
// one then gets.
func TestReadDeadline(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		b := make([]byte, 10)
		require.Empty(t, p.do("write", 10).Err)
		for _, past := range []time.Time{time.Now().Add(-time.Hour), time.Unix(1, 0)} {
			require.NoError(t, p.SetReadDeadline(past))
			n, err := p.Read(b)
			requireTimeout(t, err)
			require.Zero(t, n)
			_, err = p.Read(nil)
			requireTimeout(t, err)
		}
		require.NoError(t, p.SetReadDeadline(time.Time{}))
		p.read(10, 0)

		for range 3 {
			require.NoError(t, p.SetDeadline(time.Now().Add(soon)))
			_, err := p.Read(b)
			requireTimeout(t, err)
			require.NoError(t, p.SetDeadline(time.Now().Add(-1)))
			_, err = p.Write([]byte{1})
			requireTimeout(t, err)
		}
		require.NoError(t, p.SetDeadline(time.Now().Add(time.Hour)))
		require.Empty(t, p.do("write", 5).Err)
		p.read(5, 10)
	})
}

// A deadline that is set while a Read waits counts for that Read: an earlier one ends it, and a
// later one lets it wait.
func TestDeadlineOfARunningRead(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		const readers = 3
		ends := make(chan error, readers)
		read := func() {
			_, err := p.Read(make([]byte, 1))
			ends <- err
		}
		for range readers {
			go read()
		}
		blocked(t, "Conn).Read", 1)
		require.NoError(t, p.SetReadDeadline(time.Now().Add(time.Hour)))
		require.NoError(t, p.SetReadDeadline(time.Now().Add(-1)))
		for range readers {
			requireTimeout(t, <-ends)
		}

		// Moved again and again, it does not pass.
		require.NoError(t, p.SetReadDeadline(time.Now().Add(time.Minute)))
		go read()
		blocked(t, "Conn).Read", 1)
		for range 100 {
			require.NoError(t, p.SetReadDeadline(time.Now().Add(time.Minute)))
		}
		require.NoError(t, p.SetReadDeadline(time.Time{}))
		require.Empty(t, p.do("write", 1).Err)
		require.NoError(t, <-ends)
	})
}

// A Write that waits ends with its deadline and says how much it has sent. That much arrives, and
// what is written later follows it.
func TestWriteDeadline(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		at, taken := int64(0), int64(0)
		for i, size := range []int{1, 3000, 5000, 100_000, 3 << 20, 70_001} {
			require.NoError(t, p.SetWriteDeadline(time.Now().Add(soon)))
			var err error
			for err == nil {
				var n int
				n, err = p.Write(pattern(size, at))
				require.True(t, n == size || err != nil, "a short write without an error")
				at += int64(n)
			}
			requireTimeout(t, err)
			if i%2 == 0 { // a part is read, so that the window is in the middle of its growth
				require.NoError(t, p.SetWriteDeadline(time.Time{}))
				part := int(at-taken) / 3
				require.Equal(t, done{N: part, Good: true}, p.do("read", part))
				taken += int64(part)
			}
		}
		require.NoError(t, p.SetWriteDeadline(time.Time{}))
		rest := p.begin("read", int(at-taken)+10)
		_, err := p.Write(pattern(10, at))
		require.NoError(t, err)
		require.Equal(t, done{N: int(at-taken) + 10, Good: true}, rest())
	})
}

// The same where a Write is in the middle of a wait when the deadline comes to be.
func TestDeadlineOfARunningWrite(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair, _ func() *pair) {
		type result struct {
			n   int
			err error
		}
		ends := make(chan result, 1)
		const size = 16 << 20
		go func() {
			n, err := p.Write(pattern(size, 0))
			ends <- result{n, err}
		}()
		blocked(t, "Conn).Write", 1)
		require.NoError(t, p.SetWriteDeadline(time.Now()))
		r := <-ends
		requireTimeout(t, r.err)
		require.Positive(t, r.n)
		require.Less(t, r.n, size)
		require.NoError(t, p.SetWriteDeadline(time.Time{}))
		require.NoError(t, p.CloseWrite())
		require.Equal(t, done{N: r.n, Good: true, Err: "eof"}, p.do("read", size))
	})
}

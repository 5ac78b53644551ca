//go:build unix

package netconn_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

// raw declares what the connections of a listener are, for those who speak to it in other ways.
func raw(name string) *ipc.BidiStream[[]byte, []byte] {
	return ipc.NewBidiStream[[]byte, []byte]("netconn."+name, ipc.WithCodec(ipc.Raw), ipc.WithTimeout(0))
}

func id(name string) string { return fmt.Sprintf("%#x", raw(name[len("netconn."):]).Info().ID) }

// serveHostile serves what looks like listeners.
func serveHostile(s *worker.Server) {
	serve := func(name string, f func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error) {
		worker.HandleBidiStream(s, raw(name), f)
	}
	send := func(ctx context.Context, out *ipc.Sender[[]byte], items ...string) error {
		for _, item := range items {
			if err := out.Send(ctx, []byte(item)); err != nil {
				return err
			}
		}
		return nil
	}
	serve("mute", func(context.Context, *ipc.Receiver[[]byte], *ipc.Sender[[]byte]) error { return nil })
	serve("rude", func(ctx context.Context, _ *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		return send(ctx, out, "what do you want?")
	})
	serve("hollow", func(ctx context.Context, _ *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if err := send(ctx, out, "netconn 1", "ab", "", "cd"); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	serve("panics", func(ctx context.Context, _ *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if err := send(ctx, out, "netconn 1", "ab"); err != nil {
			return err
		}
		panic("out of cheese")
	})
	serve("huge", func(ctx context.Context, _ *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if err := send(ctx, out, "netconn 1"); err != nil {
			return err
		}
		return out.Send(ctx, pattern(3<<20, 0)) // in one item
	})
}

// What is no listener is found out, and a connection with it ends with an error that says so.
func TestHostileListeners(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		_, err := netconn.Dial(t.Context(), w, "mute")
		require.ErrorIs(t, err, ipc.ErrProtocol)
		_, err = netconn.Dial(t.Context(), w, "rude")
		require.ErrorIs(t, err, ipc.ErrProtocol)
		require.ErrorContains(t, err, "what do you want?")

		c, err := netconn.Dial(t.Context(), w, "hollow")
		require.NoError(t, err)
		b := make([]byte, 10)
		n, err := c.Read(b[:2])
		require.NoError(t, err)
		require.Equal(t, "ab", string(b[:n]))
		for range 2 {
			_, err = c.Read(b)
			require.ErrorIs(t, err, ipc.ErrProtocol)
			_, err = c.Write(b)
			require.ErrorIs(t, err, ipc.ErrProtocol)
		}
		require.NoError(t, c.Close())

		c, err = netconn.Dial(t.Context(), w, "panics")
		require.NoError(t, err)
		got, err := io.ReadAll(c)
		require.Equal(t, "ab", string(got))
		require.ErrorContains(t, err, "out of cheese")
		require.NoError(t, c.Close())

		c, err = netconn.Dial(t.Context(), w, "huge")
		require.NoError(t, err)
		n, good, err := readPattern(c, 3<<20+1, 0)
		require.Equal(t, io.EOF, err, "items may have any size")
		require.Equal(t, 3<<20, n)
		require.True(t, good)
		require.NoError(t, c.Close())
	})
}

// Who dials in another way harms its own connection and no other.
func TestHostileDiallers(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		open := func() *ipc.BidiStreamCall[[]byte, []byte] {
			s, err := raw("held").Open(t.Context(), w)
			require.NoError(t, err)
			return s
		}
		accept := func() pair {
			d := beginWith(t, w, act{What: "accept"})()
			require.Empty(t, d.Err)
			return pair{t: t, w: w, number: d.N}
		}
		for range 10 {
			open().Close() // before it is greeted, perhaps
		}
		s := open()
		require.NoError(t, s.Send(t.Context(), pattern(10, 0)))
		require.NoError(t, s.Send(t.Context(), nil))
		require.NoError(t, s.Send(t.Context(), pattern(10, 10)))
		require.NoError(t, s.Flush(t.Context()))
		p := accept()
		d := p.do("read", 20)
		for d.N == 0 { // it is one of those before
			require.Equal(t, "reset", d.Err)
			require.Equal(t, "reset", p.do("write", 1).Err)
			require.Empty(t, p.do("close", 0).Err)
			p = accept()
			d = p.do("read", 20)
		}
		require.Equal(t, done{N: 10, Good: true, Err: "protocol"}, d)
		require.Equal(t, "protocol", p.do("write", 1).Err)
		_, err := s.Receive(t.Context()) // the greeting
		require.NoError(t, err)
		_, err = s.Receive(t.Context())
		require.ErrorContains(t, err, "none of package netconn")
		require.Empty(t, p.do("close", 0).Err)

		// A good one works beside them.
		c, err := netconn.Dial(t.Context(), w, "echo")
		require.NoError(t, err)
		_, err = c.Write([]byte("good"))
		require.NoError(t, err)
		b := make([]byte, 4)
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		require.Equal(t, "good", string(b))
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.Close(), net.ErrClosed)
	})
}

//go:build unix

package interop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/netconn"
)

// Texts is a service of net/rpc.
type Texts struct{}

// Double answers with the text twice.
func (Texts) Double(text string, answer *string) error {
	if text == "" {
		return errors.New("no text")
	}
	*answer = text + text
	return nil
}

// Hang answers when nobody waits any more.
func (Texts) Hang(string, *string) error { select {} }

func serveRPC(l net.Listener) {
	s := rpc.NewServer()
	if err := s.Register(Texts{}); err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(c)
		}
	}()
}

// callRPC makes one call over c, and closes it.
func callRPC(c io.ReadWriteCloser, text string) (answer string, err error) {
	r := rpc.NewClient(c)
	err = r.Call("Texts.Double", text, &answer)
	return answer, errors.Join(err, r.Close())
}

func TestNetRPC(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c, err := netconn.Dial(patience(t), w, "rpc")
		require.NoError(t, err)
		r := rpc.NewClient(c)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 100 {
					text, answer := fmt.Sprintf("%d.%d ", i, j), ""
					if err := r.Call("Texts.Double", text, &answer); err != nil || answer != text+text {
						t.Errorf("%q: %v", answer, err)
						return
					}
				}
			})
		}
		wg.Wait()
		var none string
		require.EqualError(t, r.Call("Texts.Double", "", &none), "no text")
		hanging := r.Go("Texts.Hang", "x", &none, nil)
		kill(t, w)
		require.ErrorIs(t, (<-hanging.Done).Error, ipc.ErrPeerGone)
		_ = r.Close() // perhaps it has done so by itself
	})
}

// The host serves, and the worker calls.
func TestNetRPCOfTheHost(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		l := netconn.Listen(w, "host.rpc")
		serveRPC(l)
		for range 10 {
			answer, err := dialBack.Call(patience(t), w, "ab")
			require.NoError(t, err)
			require.Equal(t, "abab", answer)
		}
		require.NoError(t, l.Close())
		_, err := dialBack.Call(patience(t), w, "ab")
		require.ErrorContains(t, err, `the listener "host.rpc" is closed`)
	})
}

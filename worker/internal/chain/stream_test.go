package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// scripted is a stream whose methods return what they are told, and whose contexts end meanwhile if they are to.
type scripted struct {
	ipc.Stream
	err    error
	cancel func() // called before a method returns
}

func (s *scripted) end() error {
	if s.cancel != nil {
		s.cancel()
	}
	return s.err
}

func (s *scripted) Send(context.Context, []byte) error                           { return s.end() }
func (s *scripted) Flush(context.Context) error                                  { return s.end() }
func (s *scripted) CloseSend(context.Context) error                              { return s.end() }
func (s *scripted) Claim(context.Context, int) ([]byte, error)                   { return nil, s.end() }
func (s *scripted) Commit(context.Context, int) error                            { return s.end() }
func (s *scripted) Receive(ctx context.Context) ([]byte, error)                  { return nil, s.end() }
func (s *scripted) Attachments() *ipc.Attachments                                { return nil }
func (s *scripted) Close()                                                       {}
func (s *scripted) SendAttached(context.Context, []byte, *ipc.Attachments) error { return s.end() }

// The functions around a stream return when the stream is over and whoever has opened it knows: when a method has told that,
// whatever has become of its context meanwhile, and not when it has told of its context alone. Nobody has to close
// the stream then.
func TestStreamFunctionsReturn(t *testing.T) {
	methods := map[string]func(ctx context.Context, s ipc.Stream) error{
		"send":       func(ctx context.Context, s ipc.Stream) error { return s.Send(ctx, nil) },
		"flush":      func(ctx context.Context, s ipc.Stream) error { return s.Flush(ctx) },
		"close send": func(ctx context.Context, s ipc.Stream) error { return s.CloseSend(ctx) },
		"claim":      func(ctx context.Context, s ipc.Stream) error { _, err := s.Claim(ctx, 1); return err },
		"commit":     func(ctx context.Context, s ipc.Stream) error { return s.Commit(ctx, 0) },
		"receive":    func(ctx context.Context, s ipc.Stream) error { _, err := s.Receive(ctx); return err },
		"attached": func(ctx context.Context, s ipc.Stream) error {
			return s.(ipc.AttachedStream).SendAttached(ctx, nil, nil)
		},
	}
	names := slices.Sorted(maps.Keys(methods))
	remote := ipc.ParseError(ipc.AppendError(nil, errors.New("the handler has failed")))
	require.True(t, IsRemote(remote))
	rapid.Check(t, func(t *rapid.T) {
		inner := new(scripted)
		var end func(error)
		returned := make(chan error, 1)
		st, err := Funcs{func(ctx context.Context, _ *ipc.Call, next func(context.Context) error) error {
			err := next(ctx)
			returned <- err
			return err
		}}.Open(context.Background(), &ipc.Invocation{}, 0, ipc.Peer{}, &ipc.StreamOpening{}, func(_ context.Context, _ *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
			end = o.OnEnd
			return inner, nil
		})
		require.NoError(t, err)
		c := st.(*counted)
		over, told := false, false
		step := func(name string) {
			how := rapid.SampledFrom([]string{"fine", "context", "eof", "remote", "wrapped", "other"}).Draw(t, "how")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			inner.cancel = nil
			ends := how == "context" || rapid.Bool().Draw(t, "its context ends")
			if ends {
				inner.cancel = cancel
			}
			switch how {
			case "fine":
				inner.err = nil
			case "context":
				inner.err = context.Canceled
			case "eof":
				inner.err = io.EOF
			case "remote":
				inner.err = remote
			case "wrapped":
				inner.err = fmt.Errorf("around: %w", remote)
			case "other":
				inner.err = ipc.ErrDisconnected
			}
			err := methods[name](ctx, st)
			require.Equal(t, inner.err, err)
			told = told || err != nil && (!ends || how == "eof" || how == "remote" || how == "wrapped")
		}
		steps := rapid.IntRange(0, 6).Draw(t, "steps")
		for range steps {
			if !over && rapid.IntRange(0, 3).Draw(t, "over") == 0 {
				over = true
				end(nil)
			}
			step(rapid.SampledFrom(names).Draw(t, "method"))
			require.Equal(t, over && told, isClosed(c.known))
		}
		if !over {
			end(nil)
		}
		if !told {
			require.False(t, isClosed(c.known))
			st.Close()
		}
		require.NoError(t, <-returned)
		<-c.finished
	})
}

//go:build unix

package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tandemipc/tandem/worker/netconn"
)

type text = wrapperspb.StringValue

// grpcEnded counts handlers whose context has ended.
var grpcEnded atomic.Int64

var grpcService = grpc.ServiceDesc{
	ServiceName: "interop.Texts",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Double", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in text
			if err := decode(&in); err != nil {
				return nil, err
			}
			if in.Value == "" {
				return nil, status.Error(codes.InvalidArgument, "no text")
			}
			return wrapperspb.String(in.Value + in.Value), nil
		}},
		{MethodName: "Wait", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(new(text)); err != nil {
				return nil, err
			}
			<-ctx.Done()
			grpcEnded.Add(1)
			return nil, ctx.Err()
		}},
		{MethodName: "Ended", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return wrapperspb.Int64(grpcEnded.Load()), decode(new(text))
		}},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				var in text
				if err := s.RecvMsg(&in); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(&in); err != nil {
					return err
				}
			}
		}},
		{StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var in text
			if err := s.RecvMsg(&in); err != nil {
				return err
			}
			for i := 0; s.Context().Err() == nil; i++ {
				if err := s.SendMsg(wrapperspb.String(fmt.Sprint(in.Value, i))); err != nil {
					break
				}
			}
			grpcEnded.Add(1)
			return s.Context().Err()
		}},
	},
}

func serveGRPC(l net.Listener) {
	s := grpc.NewServer()
	s.RegisterService(&grpcService, nil)
	go func() { _ = s.Serve(l) }()
}

func dialGRPC(t *testing.T, w client) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:worker", grpc.WithContextDialer(netconn.NewDialer(w, "grpc").DialAddress), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func double(ctx context.Context, c *grpc.ClientConn, s string) (string, error) {
	var out text
	err := c.Invoke(ctx, "/interop.Texts/Double", wrapperspb.String(s), &out)
	return out.Value, err
}

func TestGRPCUnary(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c := dialGRPC(t, w)
		for i := range 200 {
			s, err := double(patience(t), c, fmt.Sprint(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%d%d", i, i), s)
		}
		_, err := double(patience(t), c, "")
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	})
}

// Deadlines and cancellations reach the handler.
func TestGRPCDeadlineAndCancellation(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c := dialGRPC(t, w)
		ctx, cancel := context.WithTimeout(patience(t), 20*time.Millisecond)
		defer cancel()
		err := c.Invoke(ctx, "/interop.Texts/Wait", wrapperspb.String("x"), new(text))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)

		// The handler is known to run when its first item has come.
		ctx, cancel = context.WithCancel(patience(t))
		s, err := c.NewStream(ctx, &grpcService.Streams[1], "/interop.Texts/Count")
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(wrapperspb.String("n")))
		require.NoError(t, s.CloseSend())
		var first text
		require.NoError(t, s.RecvMsg(&first))
		require.Equal(t, "n0", first.Value)
		cancel()
		for err == nil {
			err = s.RecvMsg(&first)
		}
		require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
		require.Eventually(t, func() bool {
			var n wrapperspb.Int64Value
			err := c.Invoke(patience(t), "/interop.Texts/Ended", wrapperspb.String("x"), &n)
			return err == nil && n.Value >= 1
		}, time.Minute, time.Millisecond)
	})
}

// A stream in both directions, with small and large messages.
func TestGRPCStream(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c := dialGRPC(t, w)
		s, err := c.NewStream(patience(t), &grpcService.Streams[0], "/interop.Texts/Echo")
		require.NoError(t, err)
		messages := func(i int) string { return fmt.Sprintf("%0*d", 1+i*i%200_000, i) }
		go func() {
			for i := range 500 {
				if err := s.SendMsg(wrapperspb.String(messages(i))); err != nil {
					t.Error(err)
					return
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
		}()
		for i := range 500 {
			var got text
			require.NoError(t, s.RecvMsg(&got))
			require.True(t, messages(i) == got.Value, "message %d", i)
		}
		require.Equal(t, io.EOF, s.RecvMsg(new(text)))
	})
}

// What runs when the worker's process is killed fails as unavailable.
func TestGRPCServerDies(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c := dialGRPC(t, w)
		s, err := c.NewStream(patience(t), &grpcService.Streams[1], "/interop.Texts/Count")
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(wrapperspb.String("n")))
		var got text
		require.NoError(t, s.RecvMsg(&got))
		kill(t, w)
		for err == nil {
			err = s.RecvMsg(&got)
		}
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		_, err = double(patience(t), c, "x")
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		require.ErrorContains(t, err, "signal", "gRPC tells why it could not connect")
	})
}

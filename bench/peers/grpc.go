package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// grpcPeer is gRPC-go with unary calls and streams. As its guides for performance and its
// documentation of options recommend, the client keeps one connection, messages
// are bytes without protobuf (a codec of their own), a fixed set of goroutines
// serves the streams, and the windows hold a whole large message.
var grpcPeer = peer{
	name: "grpc", codec: "raw", most: 64 << 20,
	serve: func(l net.Listener) error {
		s := grpc.NewServer(
			grpc.ForceServerCodecV2(rawCodec{}),
			grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))),
			grpc.MaxRecvMsgSize(grpcMost), grpc.MaxSendMsgSize(grpcMost),
			grpc.InitialWindowSize(grpcWindow), grpc.InitialConnWindowSize(grpcWindow),
			grpc.ReadBufferSize(grpcBuffer), grpc.WriteBufferSize(grpcBuffer),
		)
		s.RegisterService(&grpc.ServiceDesc{
			ServiceName: "bench.Echo",
			HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var b []byte
				err := decode(&b)
				return &b, err
			}}},
			Streams: grpcStreams,
		}, nil)
		return s.Serve(l)
	},
	dial: func(ctx context.Context, path string, _ int) (client, error) {
		return dialGRPC("unix:" + path)
	},
}

func dialGRPC(target string, opts ...grpc.DialOption) (client, error) {
	opts = append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(grpcMost), grpc.MaxCallSendMsgSize(grpcMost)),
		grpc.WithInitialWindowSize(grpcWindow), grpc.WithInitialConnWindowSize(grpcWindow),
		grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
		grpc.WithDisableServiceConfig(),
	)
	c, err := grpc.NewClient(target, opts...)
	return grpcClient{c}, err
}

// grpcOver dials over connections of another kind.
func grpcOver(dial func(context.Context) (net.Conn, error)) (client, error) {
	return dialGRPC("passthrough:worker", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
}

const (
	grpcMost   = 65 << 20
	grpcWindow = 16 << 20
	grpcBuffer = 64 << 10
)

type grpcClient struct{ *grpc.ClientConn }

func (c grpcClient) Echo(int) suite.Echo {
	return func(ctx context.Context, b []byte) (response []byte, err error) {
		err = c.Invoke(ctx, "/bench.Echo/Echo", &b, &response)
		return response, err
	}
}

// grpcStreams are the streams of the server.
var grpcStreams = []grpc.StreamDesc{
	{StreamName: "Down", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		var asked []byte
		if err := s.RecvMsg(&asked); err != nil {
			return err
		}
		return serveDown(asked, func(item []byte) error { return s.SendMsg((*grpcItem)(&item)) })
	}},
	{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		var item []byte
		for {
			if err := s.RecvMsg(&item); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg((*grpcItem)(&item)); err != nil {
				return err
			}
		}
	}},
}

func (c grpcClient) Down(ctx context.Context, asked []byte) (receive func() ([]byte, error), end func(), err error) {
	ctx, end = context.WithCancel(ctx)
	s, err := c.NewStream(ctx, &grpcStreams[0], "/bench.Echo/Down")
	if err == nil {
		if err = s.SendMsg(&asked); err == nil {
			err = s.CloseSend()
		}
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return grpcReceiver(s), end, nil
}

func (c grpcClient) Both(ctx context.Context) (send func([]byte) error, sent func() error, receive func() ([]byte, error), end func(), err error) {
	ctx, end = context.WithCancel(ctx)
	s, err := c.NewStream(ctx, &grpcStreams[1], "/bench.Echo/Both")
	if err != nil {
		end()
		return nil, nil, nil, nil, err
	}
	return func(item []byte) error { return s.SendMsg((*grpcItem)(&item)) }, s.CloseSend, grpcReceiver(s), end, nil
}

// grpcReceiver receives into memory that is used again.
func grpcReceiver(s grpc.ClientStream) func() ([]byte, error) {
	var item []byte
	return func() ([]byte, error) {
		err := s.RecvMsg(&item)
		return item, err
	}
}

// grpcItem is bytes that change after they were sent. gRPC keeps those of a message until it
// has written them, after SendMsg of a stream has returned, so they are copied, into memory of
// its pool.
type grpcItem []byte

// rawCodec passes *[]byte on as it is.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch b := v.(type) {
	case *[]byte:
		return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
	case *grpcItem:
		return mem.BufferSlice{mem.Copy(*b, mem.DefaultBufferPool())}, nil
	}
	return nil, fmt.Errorf("raw codec: %T is not *[]byte", v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("raw codec: %T is not *[]byte", v)
	}
	if n := data.Len(); n > cap(*b) {
		*b = data.Materialize()
	} else {
		*b = (*b)[:n]
		data.CopyTo(*b)
	}
	return nil
}

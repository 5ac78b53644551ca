package main

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// grpcPeer is gRPC-go with unary calls. As its guides for performance and its
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
		}, nil)
		return s.Serve(l)
	},
	dial: func(ctx context.Context, path string, _ int) (client, error) {
		c, err := grpc.NewClient("unix:"+path,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(grpcMost), grpc.MaxCallSendMsgSize(grpcMost)),
			grpc.WithInitialWindowSize(grpcWindow), grpc.WithInitialConnWindowSize(grpcWindow),
			grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
			grpc.WithDisableServiceConfig(),
		)
		return grpcClient{c}, err
	},
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

// rawCodec passes *[]byte on as it is.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("raw codec: %T is not *[]byte", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("raw codec: %T is not *[]byte", v)
	}
	*b = data.Materialize()
	return nil
}

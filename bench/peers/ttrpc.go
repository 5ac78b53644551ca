package main

import (
	"context"
	"net"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// ttrpcPeer is containerd's ttrpc. It carries protobuf messages only; the one here
// is a single field of bytes. It has nothing to configure for speed.
var ttrpcPeer = peer{
	name: "ttrpc", codec: "protobuf", most: 2 << 20, // ttrpc refuses 4 MiB and more
	serve: func(l net.Listener) error {
		s, err := ttrpc.NewServer()
		if err != nil {
			return err
		}
		s.RegisterService("bench.Echo", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"Echo": func(_ context.Context, unmarshal func(any) error) (any, error) {
				m := new(wrapperspb.BytesValue)
				err := unmarshal(m)
				return m, err
			},
		}})
		return s.Serve(context.Background(), l)
	},
	dial: func(_ context.Context, path string, _ int) (client, error) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return nil, err
		}
		return ttrpcClient{ttrpc.NewClient(conn)}, nil
	},
}

type ttrpcClient struct{ *ttrpc.Client }

func (c ttrpcClient) Echo(int) suite.Echo {
	return func(ctx context.Context, b []byte) ([]byte, error) {
		var response wrapperspb.BytesValue
		err := c.Call(ctx, "bench.Echo", "Echo", &wrapperspb.BytesValue{Value: b}, &response)
		return response.Value, err
	}
}

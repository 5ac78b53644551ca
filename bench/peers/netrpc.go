package main

import (
	"context"
	"net"
	"net/rpc"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// netRPC is the standard library's, with its default codec, gob. It has nothing
// to configure. Its calls take no context.
var netRPC = peer{
	name: "net/rpc", codec: "gob", most: 64 << 20,
	serve: func(l net.Listener) error {
		s := rpc.NewServer()
		if err := s.RegisterName("Echo", netRPCEcho{}); err != nil {
			return err
		}
		s.Accept(l)
		return net.ErrClosed
	},
	dial: func(_ context.Context, path string, _ int) (client, error) {
		c, err := rpc.Dial("unix", path)
		return netRPCClient{c}, err
	},
}

type netRPCEcho struct{}

// Echo is called by net/rpc.
func (netRPCEcho) Echo(request *[]byte, response *[]byte) error {
	*response = *request
	return nil
}

type netRPCClient struct{ *rpc.Client }

func (c netRPCClient) Echo(int) suite.Echo {
	return func(_ context.Context, b []byte) (response []byte, err error) {
		err = c.Call("Echo.Echo", &b, &response)
		return response, err
	}
}

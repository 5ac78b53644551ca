package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcserver"
	"storj.io/drpc/drpcstream"
	"storj.io/drpc/drpcwire"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// drpcPeer is Storj's DRPC, with bytes that it does not encode. A connection
// carries one call at a time, so each caller has one of its own, as its README
// says to do; there is no multiplexer between.
var drpcPeer = peer{
	name: "drpc", codec: "raw", most: 64 << 20,
	serve: func(l net.Listener) error {
		return drpcserver.NewWithOptions(drpcEcho{}, drpcserver.Options{Manager: drpcOptions}).Serve(context.Background(), l)
	},
	dial: func(_ context.Context, path string, callers int) (client, error) {
		var c drpcClient
		for range callers {
			conn, err := net.Dial("unix", path)
			if err != nil {
				return nil, errors.Join(err, c.Close())
			}
			c = append(c, drpcconn.NewWithOptions(conn, drpcconn.Options{Manager: drpcOptions}))
		}
		return c, nil
	},
}

// drpcOptions only raise the limit of what is accepted.
var drpcOptions = drpcmanager.Options{
	Reader: drpcwire.ReaderOptions{MaximumBufferSize: 65 << 20},
	Stream: drpcstream.Options{},
}

type drpcEcho struct{}

// HandleRPC echoes one message.
func (drpcEcho) HandleRPC(s drpc.Stream, _ string) error {
	var b []byte
	if err := s.MsgRecv(&b, drpcRaw{}); err != nil {
		return err
	}
	if err := s.MsgSend(&b, drpcRaw{}); err != nil {
		return err
	}
	return s.CloseSend()
}

type drpcClient []*drpcconn.Conn

func (c drpcClient) Echo(caller int) suite.Echo {
	return func(ctx context.Context, b []byte) (response []byte, err error) {
		err = c[caller].Invoke(ctx, "/bench.Echo/Echo", drpcRaw{}, &b, &response)
		return response, err
	}
}

func (c drpcClient) Close() (err error) {
	for _, conn := range c {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// drpcRaw passes *[]byte on as it is. The buffer that it decodes is drpc's.
type drpcRaw struct{}

func (drpcRaw) Marshal(m drpc.Message) ([]byte, error) {
	b, ok := m.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("raw encoding: %T is not *[]byte", m)
	}
	return *b, nil
}

func (drpcRaw) Unmarshal(data []byte, m drpc.Message) error {
	b, ok := m.(*[]byte)
	if !ok {
		return fmt.Errorf("raw encoding: %T is not *[]byte", m)
	}
	*b = slices.Clone(data)
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

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

// HandleRPC echoes one message, or serves a stream.
func (drpcEcho) HandleRPC(s drpc.Stream, rpc string) error {
	var b []byte
	switch rpc {
	case drpcDown:
		if err := s.MsgRecv(&b, drpcRaw{}); err != nil {
			return err
		}
		drpcGather(s)
		return serveDown(b, func(item []byte) error { return s.MsgSend(&item, drpcRaw{}) })
	case drpcBoth:
		for {
			if err := s.MsgRecv(&b, drpcRaw{}); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.MsgSend(&b, drpcRaw{}); err != nil {
				return err
			}
		}
	}
	if err := s.MsgRecv(&b, drpcRaw{}); err != nil {
		return err
	}
	if err := s.MsgSend(&b, drpcRaw{}); err != nil {
		return err
	}
	return s.CloseSend()
}

// The streams of the server.
const (
	drpcDown = "/bench.Echo/Down"
	drpcBoth = "/bench.Echo/Both"
)

// drpcGather makes small messages travel together, in writes of 4 KiB, as drpc's SetManualFlush
// is for. Without, each is a write. Receiving flushes then, so a side that sends and receives at the
// same time would not read while its peer does not: such a stream stands still for ever.
func drpcGather(s drpc.Stream) {
	s.(interface{ SetManualFlush(bool) }).SetManualFlush(true)
}

type drpcClient []*drpcconn.Conn

func (c drpcClient) Down(ctx context.Context, asked []byte) (receive func() ([]byte, error), end func(), err error) {
	s, err := c[0].NewStream(ctx, drpcDown, drpcRaw{})
	if err == nil {
		err = s.MsgSend(&asked, drpcRaw{})
	}
	if err == nil {
		err = s.CloseSend()
	}
	if err != nil {
		return nil, nil, err
	}
	return drpcReceiver(s), func() { _ = s.Close() }, nil // what matters was received
}

func (c drpcClient) Both(ctx context.Context) (send func([]byte) error, sent func() error, receive func() ([]byte, error), end func(), err error) {
	s, err := c[0].NewStream(ctx, drpcBoth, drpcRaw{})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	return func(item []byte) error { return s.MsgSend(&item, drpcRaw{}) }, s.CloseSend, drpcReceiver(s), func() { _ = s.Close() }, nil
}

// drpcReceiver receives into memory that is used again.
func drpcReceiver(s drpc.Stream) func() ([]byte, error) {
	var item []byte
	return func() ([]byte, error) {
		err := s.MsgRecv(&item, drpcRaw{})
		return item, err
	}
}

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
	*b = append((*b)[:0], data...)
	return nil
}

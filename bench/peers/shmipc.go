package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"

	"github.com/cloudwego/shmipc-go"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// shmipcPeer is CloudWeGo's shmipc, in shared memory from memfd_create. As in its
// example of best practice, there is one session, each caller keeps a stream, and
// messages are written into and read from the shared memory without a copy on
// the side; a message here is its length and its bytes.
var shmipcPeer = peer{
	name: "shmipc", codec: "raw", most: 4 << 20, // of the 32 MiB that all share
	serve: func(l net.Listener) error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			config := shmipc.DefaultConfig()
			config.LogOutput = io.Discard
			s, err := shmipc.Server(conn, config)
			if err != nil {
				return err
			}
			go func() {
				for {
					stream, err := s.AcceptStream()
					if err != nil {
						return // the host has closed the session
					}
					go shmipcServe(stream)
				}
			}()
		}
	},
	dial: func(_ context.Context, path string, callers int) (client, error) {
		config := shmipc.DefaultSessionManagerConfig()
		config.Network, config.Address = "unix", path
		config.MemMapType = shmipc.MemMapTypeMemFd
		config.SessionNum = 1
		config.InitializeTimeout = 10 * time.Second
		config.LogOutput = io.Discard
		m, err := shmipc.NewSessionManager(config)
		if err != nil {
			return nil, err
		}
		c := &shmipcClient{manager: m}
		for range callers {
			s, err := m.GetStream()
			if err != nil {
				return nil, err
			}
			c.streams = append(c.streams, s)
		}
		return c, nil
	},
}

// shmipcServe echoes until the stream ends.
func shmipcServe(s *shmipc.Stream) {
	defer s.Close()
	for {
		request, err := shmipcRead(s)
		if err != nil {
			return
		}
		// The request lies in shared memory until it is released.
		err = shmipcWrite(s, request)
		s.BufferReader().ReleasePreviousRead()
		if err != nil {
			return
		}
	}
}

func shmipcWrite(s *shmipc.Stream, message []byte) error {
	w := s.BufferWriter()
	head, err := w.Reserve(4)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head, uint32(len(message)))
	if _, err := w.WriteBytes(message); err != nil {
		return err
	}
	return s.Flush(false)
}

func shmipcRead(s *shmipc.Stream) ([]byte, error) {
	r := s.BufferReader()
	head, err := r.ReadBytes(4)
	if err != nil {
		return nil, err
	}
	return r.ReadBytes(int(binary.LittleEndian.Uint32(head)))
}

// shmipcSilent is above the highest level of its log, which goes to stdout.
const shmipcSilent = 5

func init() { shmipc.SetLogLevel(shmipcSilent) }

type shmipcClient struct {
	manager *shmipc.SessionManager
	streams []*shmipc.Stream
}

func (c *shmipcClient) Echo(caller int) suite.Echo {
	s := c.streams[caller]
	return func(_ context.Context, b []byte) ([]byte, error) {
		if err := shmipcWrite(s, b); err != nil {
			return nil, err
		}
		shared, err := shmipcRead(s)
		if err != nil {
			return nil, err
		}
		// Every other subject returns memory of its own, too.
		response := slices.Clone(shared)
		s.BufferReader().ReleasePreviousRead()
		return response, nil
	}
}

func (c *shmipcClient) Close() error {
	for _, s := range c.streams {
		_ = s.Close() // the session ends anyway
	}
	return c.manager.Close()
}

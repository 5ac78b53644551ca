package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// goPlugin is HashiCorp's go-plugin over gRPC, as its documentation and its example of gRPC
// show: it starts the plugin, which is this program again, itself; both shake hands over the
// plugin's output, and then talk protobuf over a Unix socket that the plugin makes. The
// message is a single field of bytes. Calls go over the one connection that it keeps.
// AutoMTLS is off, as it is by default. The plugin's limit for messages, which is that of
// gRPC, 4 MiB, is raised with an option of grpc.NewServer, as the documentation of
// ServeConfig.GRPCServer says; the host's side has none.
var goPlugin = peer{
	name: "go-plugin", codec: "protobuf", most: 64 << 20,
	start: startGoPlugin,
}

// goPluginHandshake is what go-plugin passes on to tell a plugin from a program that a
// user has started by hand.
var goPluginHandshake = plugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "TANDEM_PEERS_PLUGIN",
	MagicCookieValue: "echo",
}

const goPluginName = "echo"

// serveGoPlugin does not return in a process that go-plugin has started.
func serveGoPlugin() {
	if os.Getenv(goPluginHandshake.MagicCookieKey) != goPluginHandshake.MagicCookieValue {
		return
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: goPluginHandshake,
		Plugins:         plugin.PluginSet{goPluginName: new(goPluginEcho)},
		Logger:          hclog.NewNullLogger(),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.MaxRecvMsgSize(grpcMost), grpc.MaxSendMsgSize(grpcMost))...)
		},
	})
	os.Exit(0)
}

// goPluginEcho is the plugin, on both sides.
type goPluginEcho struct {
	plugin.NetRPCUnsupportedPlugin
}

// GRPCServer is called by go-plugin in the plugin.
func (*goPluginEcho) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	method := func(name string, answer func([]byte) ([]byte, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			m := new(wrapperspb.BytesValue)
			err := decode(m)
			if err == nil {
				m.Value, err = answer(m.Value)
			}
			return m, err
		}}
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Plugin",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			method("Echo", func(b []byte) ([]byte, error) { return b, nil }),
			method("Usage", func(b []byte) ([]byte, error) {
				var r suite.UsageRequest
				if err := json.Unmarshal(b, &r); err != nil {
					return nil, err
				}
				return json.Marshal(suite.Usage(r))
			}),
		},
	}, nil)
	return nil
}

// GRPCClient is called by go-plugin in the host.
func (*goPluginEcho) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

// goPluginClient is the host's side. The process belongs to it.
type goPluginClient struct {
	process *plugin.Client
	conn    *grpc.ClientConn
}

func startGoPlugin(_ context.Context, dir string) (suite.Meter, client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), plugin.EnvUnixSocketDir+"="+dir)
	c := &goPluginClient{process: plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  goPluginHandshake,
		Plugins:          plugin.PluginSet{goPluginName: new(goPluginEcho)},
		Cmd:              cmd,
		SkipHostEnv:      true, // cmd has it already
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     time.Minute,
		Logger:           hclog.NewNullLogger(),
		Stderr:           os.Stderr,
		SyncStdout:       io.Discard,
		SyncStderr:       os.Stderr,
	})}
	if err := c.connect(); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return suite.Process{Name: "go-plugin (pid " + c.process.ID() + ")", Ask: c.usage}, c, nil
}

func (c *goPluginClient) connect() error {
	protocol, err := c.process.Client()
	if err != nil {
		return err
	}
	raw, err := protocol.Dispense(goPluginName)
	if err != nil {
		return err
	}
	conn, ok := raw.(*grpc.ClientConn)
	if !ok {
		return fmt.Errorf("go-plugin dispensed a %T", raw)
	}
	c.conn = conn
	return nil
}

func (c *goPluginClient) invoke(ctx context.Context, method string, b []byte) ([]byte, error) {
	var response wrapperspb.BytesValue
	err := c.conn.Invoke(ctx, "/bench.Plugin/"+method, &wrapperspb.BytesValue{Value: b}, &response)
	return response.Value, err
}

func (c *goPluginClient) usage(ctx context.Context, r suite.UsageRequest) (u measure.Usage, err error) {
	request, err := json.Marshal(r)
	if err != nil {
		return u, err
	}
	response, err := c.invoke(ctx, "Usage", request)
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal(response, &u)
}

func (c *goPluginClient) Echo(int) suite.Echo {
	return func(ctx context.Context, b []byte) ([]byte, error) { return c.invoke(ctx, "Echo", b) }
}

func (c *goPluginClient) Close() error {
	c.process.Kill() // asks the plugin to end first
	return nil
}

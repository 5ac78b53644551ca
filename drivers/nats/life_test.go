//go:build unix

package natsipc_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// serveEnv has the URL of NATS in a process that serves.
const serveEnv = "TANDEM_TEST_NATS_SERVE"

func TestMain(m *testing.M) {
	if url := os.Getenv(serveEnv); url != "" {
		nc, err := nats.Connect(url)
		if err == nil {
			s, _ := newServer()
			err = natsipc.Serve(context.Background(), nc, s, service)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveElsewhere serves in a process of its own.
func serveElsewhere(t *testing.T, url string) *os.Process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveEnv+"="+url)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process
}

// A server that is killed or stopped in the middle of a call ends the call.
func TestServerDies(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc := natstest.Connect(t, srv)
			p := serveElsewhere(t, srv.ClientURL())
			awaitService(t, nc)
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(50*time.Millisecond))
			defer c.Close()
			failed := make(chan error, 1)
			go func() {
				_, err := block.Call(context.Background(), c, "x", ipc.WithTimeout(0))
				failed <- err
			}()
			select {
			case err := <-failed:
				t.Fatalf("a server that lives is taken for dead: %v", err)
			case <-time.After(time.Second):
			}
			require.NoError(t, p.Signal(sig))
			err := within(t, failed)
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
		})
	}
}

//go:build linux

package socket_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

func TestDisconnectReconnectManyTimes(t *testing.T) {
	for _, d := range []struct {
		name   string
		driver socket.Driver
	}{
		{"private", socket.Driver{}},
		{"path", socket.Driver{Path: filepath.Join(t.TempDir(), "s")}},
		{"detached", socket.Driver{Detached: true}},
	} {
		t.Run(d.name, func(t *testing.T) {
			h := spawn(t, d.driver, "echo", "")
			sent := uint64(0)
			for i := range 100 {
				// What was sent before Disconnect is taken, once, by the worker.
				for range i % 7 {
					h.send(methodSink, 0, make([]byte, i*100))
					sent++
				}
				// What has arrived before Disconnect can be read after it.
				h.send(methodEcho, uint64(i), []byte("pending"))
				eventually(t, "the echo arrives", h.link().Ready)
				require.NoError(t, h.Disconnect())
				require.False(t, h.Connected())
				require.Equal(t, uint64(i), h.recv().Tx)
				_, _, err := socket.Look(h.link())
				require.ErrorIs(t, err, ipc.ErrDisconnected)
				require.NotErrorIs(t, err, ipc.ErrPeerGone)
				require.ErrorIs(t, h.link().Send(h.ctx, &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrDisconnected)

				require.NoError(t, h.Reconnect(h.ctx))
				require.True(t, h.Connected())
				require.Len(t, h.links, i+2, "the new link was passed on before Reconnect returned")
				require.NoError(t, h.links[i].Close())
			}
			h.send(methodCount, 0, nil)
			require.Equal(t, sent, h.recv().Tx)
		})
	}
}

func TestReconnectWhileConnectedDoesNothing(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	require.NoError(t, h.Reconnect(h.ctx))
	require.Len(t, h.links, 1)
	h.works()
}

func TestReconnectWithinAFrame(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	h.stop()
	ctx, cancel := context.WithCancel(h.ctx)
	started := make(chan error)
	go func() {
		started <- h.link().Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, 16<<20)})
	}()
	// Half of the frame is in the socket when the link ends.
	eventually(t, "Send waits", func() bool { return goroutineIn("(*link).writeSlowly") })
	cancel()
	require.ErrorIs(t, <-started, context.Canceled)
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Process().Signal(syscall.SIGCONT))
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestReconnectAfterTheWorkerEnded(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	h.kill()
	_, err := next(h.ctx, h.link())
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	err = h.Reconnect(h.ctx)
	var exit *ipc.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, h.Process().PID(), exit.PID)
	require.Equal(t, syscall.SIGKILL, exit.Signal)
}

func TestReconnectWhileTheWorkerEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var h *host
	d := socket.Driver{Path: path, Connect: socket.Connect{
		DelayFunc: func(int) time.Duration {
			_ = h.Process().Signal(syscall.SIGKILL)
			return time.Hour
		},
		MaxDelay: time.Hour,
	}}
	h = spawn(t, d, "echo", "")
	require.NoError(t, h.Disconnect())
	require.NoError(t, os.Remove(path), "so that the first attempt fails")
	var exit *ipc.ExitError
	require.ErrorAs(t, h.Reconnect(h.ctx), &exit)
}

func TestConnectOptionsAreRead(t *testing.T) {
	// A worker whose socket was taken away cannot be reached, so every attempt fails.
	unreachable := func(c socket.Connect) *host {
		path := filepath.Join(t.TempDir(), "s")
		h := spawn(t, socket.Driver{Path: path, Connect: c}, "echo", "")
		require.NoError(t, h.Disconnect())
		require.NoError(t, os.Remove(path))
		return h
	}
	var asked []int
	delay := func(n int) time.Duration { asked = append(asked, n); return 0 }
	h := unreachable(socket.Connect{Attempts: 4, DelayFunc: delay})
	require.ErrorContains(t, h.Reconnect(h.ctx), "after 4 attempts")
	require.Equal(t, []int{1, 2, 3}, asked, "no pause follows the last attempt")

	asked = nil
	h = unreachable(socket.Connect{DelayFunc: delay})
	require.ErrorContains(t, h.Reconnect(h.ctx), "after 5 attempts")
	require.Equal(t, []int{1, 2, 3, 4}, asked)

	h = unreachable(socket.Connect{Attempts: 1, Delay: time.Hour})
	require.ErrorContains(t, h.Reconnect(h.ctx), "after 1 attempts")

	ctx, cancel := context.WithCancel(context.Background())
	h = unreachable(socket.Connect{MaxDelay: time.Hour, DelayFunc: func(int) time.Duration { cancel(); return time.Hour }})
	require.ErrorIs(t, h.Reconnect(ctx), context.Canceled)

	// Delay and MaxDelay are what is slept, too: both forbid what would outlast the test.
	h = unreachable(socket.Connect{Attempts: 3, Delay: time.Hour, MaxDelay: time.Millisecond})
	require.ErrorContains(t, h.Reconnect(h.ctx), "after 3 attempts")

	for _, c := range []socket.Connect{{Attempts: -1}, {Delay: -1}, {MaxDelay: -1}} {
		_, err := socket.Driver{Connect: c}.Spawn(h.ctx, command(t, "echo", ""))
		require.ErrorContains(t, err, "Connect.")
	}
}

func TestDelays(t *testing.T) {
	between := func(d, low, high time.Duration) {
		t.Helper()
		require.GreaterOrEqual(t, d, low)
		require.LessOrEqual(t, d, high)
	}
	around := func(d, want time.Duration) { t.Helper(); between(d, want*3/4-1, want*5/4+1) }
	for range 100 {
		next := socket.Connect{}.Delays()
		for n, want := range []time.Duration{100, 200, 400, 800, 1600, 3200} {
			around(next(n+1), want*time.Millisecond)
		}
		for n := 7; n < 100; n++ {
			between(next(n), 5*time.Second*3/4-1, 5*time.Second)
		}
		next = socket.Connect{Delay: time.Second, MaxDelay: 3 * time.Second}.Delays()
		around(next(1), time.Second)
		around(next(2), 2*time.Second)
		between(next(3), 3*time.Second*3/4-1, 3*time.Second)
	}
	next := socket.Connect{Delay: time.Hour, DelayFunc: func(n int) time.Duration { return time.Duration(n-1) * time.Second }}.Delays()
	require.Equal(t, time.Duration(0), next(1))
	require.Equal(t, 2*time.Second, next(3))
	require.Equal(t, 5*time.Second, next(100), "MaxDelay bounds DelayFunc as well")
	require.Equal(t, time.Duration(0), next(-100), "a negative pause is none")
}

func TestImpostorIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	var delays atomic.Int32
	h := spawn(t, socket.Driver{Path: path, Connect: socket.Connect{
		DelayFunc: func(int) time.Duration { delays.Add(1); return 0 },
	}}, "echo", "")
	require.NoError(t, h.Disconnect())
	require.NoError(t, os.Rename(path, path+".away"))
	impostor, said := helper(t, "impostor", path)
	require.Equal(t, "listening", said)
	err := h.Reconnect(h.ctx)
	require.ErrorContains(t, err, "another process has taken its path")
	require.Zero(t, delays.Load(), "more attempts would be no use")
	require.NoError(t, impostor.Process.Kill())
	_ = impostor.Wait()
	require.NoError(t, os.Rename(path+".away", path))
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestUserAndProcessChecks(t *testing.T) {
	require.NoError(t, socket.CheckUser(1000, 0, 1000))
	require.ErrorContains(t, socket.CheckUser(1001, 1000), "user 1001")
	require.NoError(t, socket.CheckProcess(7, 7))
	require.NoError(t, socket.CheckProcess(0, 7), "a system that does not tell")
	require.Error(t, socket.CheckProcess(8, 7))
}

func TestSecondHostIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	h := spawn(t, socket.Driver{Path: path, Connect: socket.Connect{Attempts: 1}}, "echo", "")
	c := dialRaw(t, path)
	sendHello(t, c)
	_, err := drivers.ReadHello(c)
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "worker has a host", refused.Reason)
	h.works()

	// While another host is served, ours is told so.
	require.NoError(t, h.Disconnect())
	other := dialRaw(t, path)
	sendHello(t, other)
	_, err = drivers.ReadHello(other)
	require.NoError(t, err)
	require.ErrorAs(t, h.Reconnect(h.ctx), &refused)
	require.NoError(t, other.Close())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestConcurrentUseOfAChannel(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				switch i % 4 {
				case 0:
					_ = h.Disconnect()
				case 3:
					_ = h.Connected()
				default:
					err := h.Reconnect(h.ctx)
					if err != nil && !errors.Is(err, ipc.ErrDisconnected) {
						t.Errorf("Reconnect: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestCloseEndsReconnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	trying := make(chan struct{}, 1)
	h := spawn(t, socket.Driver{Path: path, Connect: socket.Connect{
		MaxDelay:  time.Hour,
		DelayFunc: func(int) time.Duration { trying <- struct{}{}; return time.Hour },
	}}, "echo", "")
	require.NoError(t, h.Disconnect())
	require.NoError(t, os.Remove(path))
	errs := make(chan error, 1)
	go func() { errs <- h.Reconnect(h.ctx) }()
	<-trying
	require.NoError(t, h.Close())
	require.ErrorIs(t, <-errs, ipc.ErrClosed)
	require.NoError(t, h.Close())
	before := leaktest.Descriptors()
	for range 50 {
		require.ErrorIs(t, h.Reconnect(h.ctx), ipc.ErrClosed)
	}
	require.Empty(t, leaktest.LeakedDescriptors(before))
	require.False(t, h.Connected())
	require.Nil(t, h.Process().Exit(), "Close does not end the worker")
}

func TestCloseWithoutLinks(t *testing.T) {
	ch, err := socket.Driver{}.Spawn(testContext(t), command(t, "echo", ""))
	require.NoError(t, err)
	require.NoError(t, ch.Disconnect())
	require.NoError(t, ch.Reconnect(testContext(t)))
	require.NoError(t, ch.Close())
	require.NoError(t, ch.Process().Signal(syscall.SIGKILL))
	<-ch.Process().Done()
}

// helper starts a helper process and returns the first line it prints.
func helper(t *testing.T, mode, arg string) (*exec.Cmd, string) {
	cmd := command(t, mode, arg).Cmd
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line := bufio.NewScanner(out)
	require.True(t, line.Scan())
	return cmd, line.Text()
}

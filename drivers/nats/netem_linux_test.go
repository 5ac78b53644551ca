package natsipc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
)

// farAway makes a network namespace that a link with delay and loss leads to, and returns the address of this end, and
// what runs a command there. It skips the test where the system does not allow that.
func farAway(t *testing.T, netem ...string) (address string, in func(name string, args ...string) *exec.Cmd) {
	t.Helper()
	id := os.Getpid() % 50000
	ns, a, b := fmt.Sprint("tandem", id), fmt.Sprint("tda", id), fmt.Sprint("tdb", id)
	net := fmt.Sprintf("10.213.%d.", id%250)
	try := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v: %s", args, err, bytes.TrimSpace(out))
		}
	}
	try("ip", "netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() }) // and the link with it
	try("ip", "link", "add", a, "type", "veth", "peer", "name", b, "netns", ns)
	try("ip", "addr", "add", net+"1/24", "dev", a)
	try("ip", "link", "set", a, "up")
	try("ip", "-n", ns, "addr", "add", net+"2/24", "dev", b)
	try("ip", "-n", ns, "link", "set", b, "up")
	try(append([]string{"tc", "qdisc", "add", "dev", a, "root", "netem"}, netem...)...)
	try(append([]string{"tc", "-n", ns, "qdisc", "add", "dev", b, "root", "netem"}, netem...)...)
	return net + "1", func(name string, args ...string) *exec.Cmd {
		return exec.Command("ip", append([]string{"netns", "exec", ns, name}, args...)...)
	}
}

// Over a link with delay and loss calls, large ones and streams give what they give elsewhere.
func TestDelayAndLoss(t *testing.T) {
	address, in := farAway(t, "delay", "10ms", "5ms", "loss", "2%")
	srv := natstest.Start(t, func(o *server.Options) { o.Host, o.JetStream = address, false })
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := in(self)
	cmd.Env = append(os.Environ(), serveEnv+"=nats://"+srv.Addr().String())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	nc, err := nats.Connect("nats://"+srv.Addr().String(), nats.Timeout(time.Minute))
	require.NoError(t, err)
	defer nc.Close()
	awaitService(t, nc)

	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for i := range 100 {
		n, err := double.Call(t.Context(), c, i)
		require.NoError(t, err)
		require.Equal(t, 2*i, n)
	}
	large := bytes.Repeat([]byte("0123456789"), 300_000)
	back, err := echo.Call(t.Context(), c, large)
	require.NoError(t, err)
	require.True(t, bytes.Equal(large, back))
	next := 0
	for n, err := range numbers.Stream(t.Context(), c, counting{N: 5000}) {
		require.NoError(t, err)
		require.Equal(t, next, n)
		next++
	}
	require.Equal(t, 5000, next)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = block.Call(ctx, c, "x")
	require.Equal(t, ipc.CodeDeadlineExceeded, ipc.CodeOf(err))
}

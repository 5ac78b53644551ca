//go:build unix

package jetipc_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

const roleVariable = "TANDEM_TEST_JETSTREAM_ROLE"

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("test", func() error { return newServer().Serve(context.Background()) })
	if role, ok := os.LookupEnv(roleVariable); ok {
		_ = os.Unsetenv(roleVariable)
		if err := play(role); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func play(role string) error {
	what, arg, _ := strings.Cut(role, " ")
	switch what {
	case "server":
		dir, port := "", 0
		if _, err := fmt.Sscan(arg, &dir, &port); err != nil {
			return err
		}
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir})
		if err != nil {
			return err
		}
		s.Start()
		if !s.ReadyForConnections(time.Minute) {
			return fmt.Errorf("the server is not ready")
		}
		fmt.Println(s.ClientURL())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
		return nil
	case "host":
		return host(context.Background(), arg)
	}
	return fmt.Errorf("role %q", role)
}

// The contract of the test's workers.
var (
	double = ipc.NewMethod[uint64, uint64]("test.double")
	parts  = ipc.NewMethod[uint64, []uint64]("test.parts") // n%3 of n
)

func newServer() *worker.Server {
	s := worker.NewServer()
	pipeline.Handle(s, double, func(_ context.Context, n uint64) (uint64, error) { return 2 * n, nil })
	pipeline.Handle(s, parts, func(_ context.Context, n uint64) ([]uint64, error) {
		out := make([]uint64, n%3)
		for i := range out {
			out[i] = n<<8 | uint64(i)
		}
		return out, nil
	})
	return s
}

func newPool(n int) (*pool.Pool[*socket.Channel], error) {
	cmd := worker.Self("test")
	cmd.Stderr = io.Discard
	return pool.New(context.Background(), n, cmd, socket.Driver{}, pool.WithWorkers(
		worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: 20 * time.Millisecond, MaxRestarts: -1}), worker.WithGrace(time.Second)))
}

func role(t testing.TB, what string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+what)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(stdout)
}

// natsProcess is a NATS server that can be killed, and started again where it was.
type natsProcess struct {
	t   testing.TB
	dir string
	url string
	mu  sync.Mutex
	cmd *exec.Cmd
}

func startNATS(t testing.TB) *natsProcess {
	t.Helper()
	p := &natsProcess{t: t, dir: t.TempDir()}
	p.start("-1")
	return p
}

func (p *natsProcess) start(port string) {
	cmd, out := role(p.t, "server "+p.dir+" "+port)
	line, err := out.ReadString('\n')
	require.NoError(p.t, err, line)
	if p.cmd = cmd; p.url == "" { // and it stays
		p.url = strings.TrimSpace(line)
	}
}

// restart kills the server, and starts it again.
func (p *natsProcess) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kill()
	p.again()
}

func (p *natsProcess) kill() {
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGKILL))
	_ = p.cmd.Wait()
}

// again starts a server that was killed.
func (p *natsProcess) again() {
	u, err := url.Parse(p.url)
	require.NoError(p.t, err)
	p.start(u.Port())
}

var stubborn = []nats.Option{nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectBufSize(-1),
	nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}

// connect connects to a server, for as long as the test lasts.
func connect(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, stubborn...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(20*time.Second))
	require.NoError(t, err)
	return js
}

// start runs a server in this process.
func start(t testing.TB) jetstream.JetStream {
	t.Helper()
	return connect(t, natstest.Start(t, nil).ClientURL())
}

// newStream makes a stream in files, with the subjects NAME and NAME.>.
func newStream(t testing.TB, js jetstream.JetStream, c jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	c.Storage = jetstream.FileStorage
	if c.Subjects == nil {
		c.Subjects = []string{c.Name, c.Name + ".>"}
	}
	s, err := js.CreateStream(t.Context(), c)
	require.NoError(t, err)
	return s
}

// newConsumer makes a durable consumer for a source.
func newConsumer(t testing.TB, js jetstream.JetStream, stream string, c jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	c.Durable, c.AckPolicy = "work", jetstream.AckExplicitPolicy
	if c.AckWait == 0 {
		c.AckWait = time.Minute // and a second where servers or processes are killed
	}
	consumer, err := js.CreateConsumer(t.Context(), stream, c)
	require.NoError(t, err)
	return consumer
}

// publish publishes the numbers before n to a stream, each once.
func publish(t testing.TB, js jetstream.JetStream, subject string, n uint64) {
	t.Helper()
	var waiting []jetstream.PubAckFuture
	for i := range n {
		b, err := ipc.Marshal(ipc.CBOR, nil, i)
		require.NoError(t, err)
		f, err := js.PublishAsync(subject, b, jetstream.WithMsgID(fmt.Sprint(i)))
		require.NoError(t, err)
		if waiting = append(waiting, f); len(waiting) < 1000 && i+1 < n {
			continue
		}
		for _, f := range waiting {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				t.Fatal(err)
			}
		}
		waiting = waiting[:0]
	}
}

// contents returns how often each record is in a stream. It reads until nothing goes wrong: a server may just have been killed.
func contents(t testing.TB, js jetstream.JetStream, stream string) (got map[uint64]int) {
	t.Helper()
	eventually(t, "all of the stream is read", func() bool {
		got = make(map[uint64]int)
		c, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return false
		}
		for left := messages(t, js, stream); left > 0; {
			batch, err := c.Fetch(int(min(left, 500)))
			if err != nil {
				return false
			}
			for m := range batch.Messages() {
				v, err := ipc.Unmarshal[uint64](ipc.CBOR, m.Data())
				require.NoError(t, err)
				got[v]++
				left--
			}
			if batch.Error() != nil {
				return false
			}
		}
		return true
	})
	return got
}

// messages returns how many messages a stream has. It asks until there is an answer.
func messages(t testing.TB, js jetstream.JetStream, stream string) (n uint64) {
	t.Helper()
	eventually(t, "the server answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // a server that is killed loses what it was asked
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		n = s.CachedInfo().State.Msgs
		return true
	})
	return n
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 90*time.Second {
			t.Fatalf("still not: %s", what)
		}
	}
}

// within runs f, and fails if that hangs.
func within(t testing.TB, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("it hangs")
		return nil
	}
}

// collector is a sink that keeps all.
type collector[T any] struct {
	mu    sync.Mutex
	items []pipeline.Item[T]
}

func (c *collector[T]) Write(_ context.Context, items []pipeline.Item[T]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items = append(c.items, items...)
	return nil
}

func (c *collector[T]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

// sinkFunc is a function that is a sink.
type sinkFunc[T any] func(ctx context.Context, items []pipeline.Item[T]) error

func (f sinkFunc[T]) Write(ctx context.Context, items []pipeline.Item[T]) error { return f(ctx, items) }

package drivertest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

const (
	// watchdog bounds one case. It is generous: only a hang meets it.
	watchdog = 5 * time.Minute
	// maxMessage is what both sides agree on unless a case says otherwise. It
	// leaves room for the largest frame of the suite, 64 MiB.
	maxMessage = 80 << 20
)

// TestDriver checks that d does what package drivers says of drivers, channels and
// links. The test binary has to call [Main], and d has to be registered with
// [drivers.Register] under its name.
func TestDriver[C drivers.Channel, D interface {
	drivers.Driver[C]
	drivers.Acceptor
}](t *testing.T, d D) {
	s := &suite{
		name:    d.Name(),
		caps:    d.Capabilities(),
		channel: reflect.TypeFor[C](),
		spawn: func(ctx context.Context, cmd *drivers.Command) (drivers.Channel, error) {
			c, err := d.Spawn(ctx, cmd)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	}
	for _, group := range []struct {
		name  string
		cases []testCase
	}{
		{"Start", startCases},
		{"Frames", frameCases},
		{"Batch", batchCases},
		{"Hold", holdCases},
		{"Files", fileCases},
		{"Buffers", bufferCases},
		{"Pressure", pressureCases},
		{"Wait", waitCases},
		{"Close", closeCases},
		{"Death", deathCases},
		{"Many", manyCases},
		{"Reconnect", reconnectCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) { s.watch(t); c.run(t, s) })
			}
		})
	}
}

// testCase is one subtest of the suite.
type testCase struct {
	name string
	run  func(*testing.T, *suite)
}

// suite is the driver under test, without its type.
type suite struct {
	name    string
	caps    drivers.Capabilities
	channel reflect.Type
	spawn   func(context.Context, *drivers.Command) (drivers.Channel, error)

	mu    sync.Mutex
	peers map[*peer]bool // of the case that runs
}

// watch ends the process, with the stacks of both sides, if a case hangs.
func (s *suite) watch(t *testing.T) {
	s.mu.Lock()
	s.peers = make(map[*peer]bool)
	s.mu.Unlock()
	timer := time.AfterFunc(watchdog, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for p := range s.peers {
			if p.process != nil && sigQuit != nil {
				_ = p.process.Signal(sigContinue)
				_ = p.process.Signal(sigQuit) // a worker in Go prints its stacks
				select {
				case <-p.process.Done():
				case <-time.After(2 * time.Second):
					_ = p.process.Signal(os.Kill)
				}
			}
			fmt.Fprintf(stderr, "worker said on stderr:\n%s\n", p.stderr.String())
		}
		debug.SetTraceback("all")
		panic(fmt.Sprintf("%s hangs: no end after %v", t.Name(), watchdog))
	})
	t.Cleanup(func() { timer.Stop() })
}

// A peer is a worker process and the host's end of everything that leads to it.
type peer struct {
	t       *testing.T
	channel drivers.Channel
	links   chan drivers.Link // as they arrive, with the first one taken out
	link    drivers.Link
	process drivers.Process
	stdin   *os.File
	stdout  *os.File
	lines   *bufio.Reader
	stderr  *lockedBuffer
}

// option changes the command before a worker is started with it.
type option func(*drivers.Command)

// withMaxMessage sets the largest message that the host takes.
func withMaxMessage(n int) option { return func(c *drivers.Command) { c.Startup.MaxMessage = n } }

// command returns what starts this test binary as a worker that follows sc.
func (s *suite) command(t *testing.T, sc script) *drivers.Command {
	t.Helper()
	sc.Suite = suiteName
	data, err := ipc.CBOR.Append(nil, &sc)
	require.NoError(t, err)
	cmd := exec.Command(executable(t), "-test.run=^$")
	cmd.WaitDelay = time.Minute // what it has said is read, however busy the machine is
	// A program that was built with -race sleeps for a second when it ends.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return &drivers.Command{
		Cmd: cmd,
		Startup: drivers.StartupData{
			Protocol: drivers.ProtocolVersion, Codec: codecName, HostPID: os.Getpid(),
			Timeouts: drivers.DefaultTimeouts(), MaxMessage: maxMessage, UserData: data,
		},
	}
}

func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	return path
}

// start starts a worker and fails the test if that fails.
func (s *suite) start(t *testing.T, sc script, opts ...option) *peer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := s.tryStart(ctx, t, sc, opts...)
	cancel() // a channel has to outlive the context that it was spawned under
	require.NoError(t, err, "start a worker")
	p.link = <-p.links
	return p
}

// tryStart starts a worker. With an error it returns a peer that has no more
// than what the worker said.
func (s *suite) tryStart(ctx context.Context, t *testing.T, sc script, opts ...option) (*peer, error) {
	t.Helper()
	p := &peer{t: t, stderr: new(lockedBuffer), links: make(chan drivers.Link, 64)}
	cmd := s.command(t, sc)
	theirIn, ourIn, err := os.Pipe()
	require.NoError(t, err)
	ourOut, theirOut, err := os.Pipe()
	require.NoError(t, err)
	p.stdin, p.stdout, p.lines = ourIn, ourOut, bufio.NewReader(ourOut)
	cmd.Cmd.Stdin, cmd.Cmd.Stdout, cmd.Cmd.Stderr = theirIn, theirOut, p.stderr
	for _, o := range opts {
		o(cmd)
	}
	s.mu.Lock()
	s.peers[p] = true
	s.mu.Unlock()
	t.Cleanup(p.abandon)

	channel, err := s.spawn(ctx, cmd)
	theirIn.Close()
	theirOut.Close()
	if err != nil {
		return p, err
	}
	p.channel = channel
	s.mu.Lock()
	p.process = channel.Process()
	s.mu.Unlock()
	channel.Links(func(l drivers.Link) { p.links <- l })
	require.NotEmpty(t, p.links, "Links has to call its function with the present link before it returns")
	return p, nil
}

// abandon releases what a case that failed has left.
func (p *peer) abandon() {
	if p.process != nil {
		_ = p.process.Signal(os.Kill)
	}
	if p.link != nil {
		p.link.Shutdown()
	}
	if p.channel != nil {
		_ = p.channel.Close()
	}
	if p.process != nil {
		<-p.process.Done()
	}
	p.stdin.Close()
	p.stdout.Close()
	if p.t.Failed() {
		if s := p.stderr.String(); s != "" {
			p.t.Logf("worker said on stderr:\n%s", s)
		}
	}
}

// tell writes a line that the worker waits for.
func (p *peer) tell(line string) {
	p.t.Helper()
	_, err := p.stdin.WriteString(line + "\n")
	require.NoError(p.t, err, "tell the worker %q", line)
}

// heard returns the next line that the worker said.
func (p *peer) heard() string {
	p.t.Helper()
	line, err := p.lines.ReadString('\n')
	require.NoError(p.t, err, "wait for a line of the worker; stderr: %s", p.stderr)
	return strings.TrimSpace(line)
}

// expect waits until the worker says line.
func (p *peer) expect(line string) {
	p.t.Helper()
	require.Equal(p.t, line, p.heard())
}

// exited waits for the end of the process and returns how it ended.
func (p *peer) exited() *ipc.ExitError {
	p.t.Helper()
	<-p.process.Done()
	exit := p.process.Exit()
	require.NotNil(p.t, exit, "Exit after Done")
	return exit
}

// end ends the link in good order and checks that the worker noticed and was
// content with what it saw. The reader role has to be free.
func (p *peer) end() {
	p.t.Helper()
	require.NoError(p.t, p.link.Close(), "close the link")
	p.ended()
}

// ended closes the channel of a link that has ended, and checks that the worker
// was content with what it saw.
func (p *peer) ended() {
	p.t.Helper()
	require.NoError(p.t, p.channel.Close(), "close the channel")
	exit := p.exited()
	require.Nil(p.t, exit.Signal, "worker: %v", exit)
	require.Zero(p.t, exit.Code, "worker: %v", exit)
}

// send sends and fails the test if that fails.
func (p *peer) send(f drivers.Frame) {
	p.t.Helper()
	require.NoError(p.t, p.link.Send(context.Background(), &f), "send %v %d with %d bytes", f.Kind, f.Tx, len(f.Payload))
}

// receive returns the next frame and fails the test if the link ends.
func (p *peer) receive() drivers.Frame {
	p.t.Helper()
	f, err := receive(p.link)
	if err != nil {
		require.NoError(p.t, err, "receive; worker's stderr: %s", p.stderr)
	}
	return f
}

// echo sends a frame to a mirror and checks what comes back.
func (p *peer) echo(tx uint64, size int) {
	p.t.Helper()
	p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size)})
	f := p.receive()
	require.Equal(p.t, tx, f.Tx)
	require.Len(p.t, f.Payload, size)
	require.NoError(p.t, checkPattern(tx, f.Payload))
}

// report asks a sink for its tally.
func (p *peer) report() tally {
	p.t.Helper()
	p.send(drivers.Frame{Kind: drivers.KindGoodbye, Tx: 1})
	f := p.receive()
	require.Equal(p.t, drivers.KindResponse, f.Kind)
	var got tally
	require.NoError(p.t, ipc.CBOR.Decode(f.Payload, &got), "report of the worker: %q", f.Payload)
	return got
}

// lockedBuffer is a buffer that may be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}

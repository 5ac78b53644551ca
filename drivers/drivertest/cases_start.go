package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// reconnecter is what channels with the capability Reconnect offer.
type reconnecter interface {
	Disconnect() error
	Reconnect(context.Context) error
	Connected() bool
}

var startCases = []testCase{
	{"Capabilities", testCapabilities},
	{"Hello", testHello},
	{"NoHello", testNoHello},
	{"ExitBeforeHello", testExitBeforeHello},
	{"Refused", testRefused},
	{"CodecMismatch", testCodecMismatch},
	{"WorkerOfOtherVersion", testWorkerOfOtherVersion},
	{"HostOfOtherVersion", testHostOfOtherVersion},
	{"NotTandem", testNotTandem},
	{"NoProgram", testNoProgram},
	{"ContextEnded", testContextEnded},
	{"Environment", testEnvironment},
}

// testCapabilities: what a driver says it can do is what its channel offers.
func testCapabilities(t *testing.T, s *suite) {
	assert.NotEmpty(t, s.name)
	assert.Contains(t, drivers.Names(), s.name, "the driver's package has to register it")
	assert.Equal(t, s.caps.Reconnect, s.channel.Implements(reflect.TypeFor[reconnecter]()),
		"%v has Disconnect, Reconnect and Connected just if its driver can reconnect", s.channel)
	if !s.caps.Reconnect {
		for _, name := range []string{"Disconnect", "Reconnect", "Connected"} {
			_, has := s.channel.MethodByName(name)
			assert.False(t, has, "%v has %s, but its driver cannot reconnect", s.channel, name)
		}
	}
}

// testHello: each side learns from the other's hello who it is.
func testHello(t *testing.T, s *suite) {
	var hosts, workers []drivers.Hello
	for range 2 {
		p := s.start(t, script{Do: "peer", MaxMessage: 5 << 20})
		w := p.link.Peer()
		assert.Equal(t, p.process.PID(), w.PID)
		assert.Equal(t, s.name, w.Driver)
		assert.Equal(t, codecName, w.Codec)
		assert.Equal(t, drivers.ProtocolVersion, w.Protocol)
		assert.Equal(t, drivers.ByteOrderMark, w.ByteOrder)
		assert.Equal(t, 5<<20, w.MaxMessage)
		assert.NotZero(t, w.Nonce)

		var h drivers.Hello
		require.NoError(t, json.Unmarshal([]byte(p.heard()), &h))
		assert.Equal(t, os.Getpid(), h.PID)
		assert.Equal(t, s.name, h.Driver)
		assert.Equal(t, codecName, h.Codec)
		assert.Equal(t, drivers.ProtocolVersion, h.Protocol)
		assert.Equal(t, maxMessage, h.MaxMessage)
		assert.NotZero(t, h.Nonce)
		if _, err := os.Stat("/proc/self/stat"); err == nil {
			assert.NotZero(t, w.StartTime)
			assert.NotZero(t, h.StartTime)
		}
		hosts, workers = append(hosts, h), append(workers, w)
		p.end()
	}
	assert.Equal(t, hosts[0].Nonce, hosts[1].Nonce, "a nonce names a run of a program")
	assert.NotEqual(t, workers[0].Nonce, workers[1].Nonce, "two runs have two nonces")
}

// startFails starts a worker that must not come up and returns the error. No
// process may be left when Spawn has returned.
func (s *suite) startFails(ctx context.Context, t *testing.T, sc script, opts ...option) (*peer, error) {
	t.Helper()
	p, err := s.tryStart(ctx, t, sc, opts...)
	require.Error(t, err)
	assert.False(t, leaktest.ChildrenLeft(), "process left after a failed start: %v", leaktest.Children())
	return p, err
}

// testNoHello: a worker that says nothing is killed when the limit is over,
// and the error names the limit.
func testNoHello(t *testing.T, s *suite) {
	limit := &ipc.TimeoutError{What: "start of the worker", After: 100 * time.Millisecond}
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit.After, limit)
	defer cancel()
	_, err := s.startFails(ctx, t, script{Do: "silent"})
	var got *ipc.TimeoutError
	require.ErrorAs(t, err, &got)
	assert.Same(t, limit, got)
	assert.ErrorContains(t, err, "start of the worker took longer than 100ms")

	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = s.startFails(ctx, t, script{Do: "silent"})
	assert.ErrorIs(t, err, context.Canceled)
}

// testExitBeforeHello: the error has the exit code and the last words.
func testExitBeforeHello(t *testing.T, s *suite) {
	p, err := s.startFails(t.Context(), t, script{Do: "exit-early", Text: "no licence found"})
	var exit *ipc.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, exitAsked, exit.Code)
	assert.Nil(t, exit.Signal)
	assert.NotZero(t, exit.PID)
	assert.Equal(t, "first line\nno licence found\n", exit.Stderr)
	assert.ErrorContains(t, err, "no licence found")
	assert.ErrorIs(t, err, ipc.ErrPeerGone)
	assert.Equal(t, exit.Stderr, p.stderr.String(), "the user's Stderr gets it as well")
}

// testRefused: a worker says why it will not serve.
func testRefused(t *testing.T, s *suite) {
	_, err := s.startFails(t.Context(), t, script{Do: "refuse", Text: "driver is not linked in: import it"})
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "driver is not linked in: import it", refused.Reason)
}

// testCodecMismatch: both sides get an error that names both codecs.
func testCodecMismatch(t *testing.T, s *suite) {
	p, err := s.startFails(t.Context(), t, script{Do: "sink", Codec: "json"})
	var m *ipc.MismatchError
	require.ErrorAs(t, err, &m)
	assert.Equal(t, ipc.MismatchError{What: "codec", Local: "raw", Remote: "json"}, *m)
	assert.Contains(t, p.stderr.String(), "codec mismatch: this side has json, the other side has raw")
}

// testWorkerOfOtherVersion: a worker that another version of this package was
// built into gets an error at once.
func testWorkerOfOtherVersion(t *testing.T, s *suite) {
	other := strconv.Itoa(drivers.ProtocolVersion + 1000)
	_, err := s.startFails(t.Context(), t, script{Do: "protocol"})
	var m *ipc.MismatchError
	require.ErrorAs(t, err, &m)
	assert.Equal(t, ipc.MismatchError{What: "protocol version", Local: strconv.Itoa(drivers.ProtocolVersion), Remote: other}, *m)

	_, err = s.startFails(t.Context(), t, script{Do: "layout"})
	require.ErrorAs(t, err, &m)
	assert.Equal(t, "layout version", m.What)
	assert.NotEmpty(t, m.Local)
	assert.Equal(t, "1000", m.Remote)
}

// testHostOfOtherVersion: so does the worker if it is the host that differs.
func testHostOfOtherVersion(t *testing.T, s *suite) {
	if sigStop == nil {
		t.Skip("needs socket pairs")
	}
	for do, want := range map[string]string{
		"host-protocol": fmt.Sprintf("protocol version mismatch: this side has %d, the other side has %d", drivers.ProtocolVersion, drivers.ProtocolVersion+1000),
		"host-layout":   "the other side has 1000",
		"host-driver":   "driver mismatch: this side has " + s.name + ", the other side has pigeon",
	} {
		p, err := s.startFails(t.Context(), t, script{Do: do})
		var exit *ipc.ExitError
		if assert.ErrorAs(t, err, &exit, do) {
			assert.Equal(t, exitMismatch, exit.Code, "%s: %v", do, exit)
		}
		assert.Contains(t, p.stderr.String(), want, do)
	}
}

// testNotTandem: something else that answers on the socket is an error.
func testNotTandem(t *testing.T, s *suite) {
	_, err := s.startFails(t.Context(), t, script{Do: "garbage"})
	assert.ErrorIs(t, err, ipc.ErrProtocol)
	assert.ErrorContains(t, err, "GET / HT")
}

// testNoProgram: a program that is not there is an error that says so.
func testNoProgram(t *testing.T, s *suite) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := s.startFails(t.Context(), t, script{}, func(c *drivers.Command) { c.Cmd = exec.Command(missing) })
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, missing)

	_, err = s.startFails(t.Context(), t, script{}, func(c *drivers.Command) { c.Cmd = exec.Command("no-such-program-anywhere") })
	assert.ErrorIs(t, err, exec.ErrNotFound)
}

// testContextEnded: nothing is started under a context that has ended.
func testContextEnded(t *testing.T, s *suite) {
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	p, err := s.startFails(ctx, t, script{Do: "exit-early"})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		t.Errorf("got error %v, want the context's", err)
	}
	assert.Empty(t, p.stderr.String())
}

// testEnvironment: the command is the user's, and the worker gets no more
// descriptors than it needs.
func testEnvironment(t *testing.T, s *suite) {
	extra, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer extra.Close()
	p := s.start(t, script{Do: "mirror"}, func(c *drivers.Command) {
		c.Cmd.ExtraFiles = []*os.File{extra}
		c.Cmd.Dir = "/"
		c.Cmd.Env = append(c.Cmd.Env, "IPCTEST_GREETING=hi")
	})
	proc := "/proc/" + strconv.Itoa(p.process.PID())
	if dir, err := os.Readlink(proc + "/cwd"); err == nil {
		assert.Equal(t, "/", dir)
		env, err := os.ReadFile(proc + "/environ")
		require.NoError(t, err)
		assert.Contains(t, string(env), "IPCTEST_GREETING=hi\x00")
		third, err := os.Readlink(proc + "/fd/3")
		require.NoError(t, err)
		assert.Equal(t, os.DevNull, third, "the user's ExtraFiles keep their numbers")
	}
	p.echo(1, 100)
	p.end()
}

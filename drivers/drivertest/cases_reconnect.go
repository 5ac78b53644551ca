package drivertest

import (
	"context"
	"errors"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var reconnectCases = []testCase{
	{"Again", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnect(t, s) }},
	{"WhileBusy", func(t *testing.T, s *suite) { s.needReconnect(t); testDisconnectWhileBusy(t, s) }},
	{"NothingIsLost", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnectNothingIsLost(t, s) }},
	{"Connected", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnectConnected(t, s) }},
	{"Dead", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnectDead(t, s) }},
	{"ContextEnded", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnectContext(t, s) }},
	{"NothingStays", func(t *testing.T, s *suite) { s.needReconnect(t); testReconnectNothingStays(t, s) }},
}

func (s *suite) needReconnect(t *testing.T) {
	if !s.caps.Reconnect {
		t.Skip("this driver cannot reconnect")
	}
}

// reconnect connects again and takes the new link.
func (p *peer) reconnect() {
	p.t.Helper()
	c := p.channel.(reconnecter)
	ctx, cancel := context.WithCancel(p.t.Context())
	err := c.Reconnect(ctx)
	cancel()
	require.NoError(p.t, err, "reconnect; worker's stderr: %s", p.stderr)
	require.True(p.t, c.Connected())
	require.NotEmpty(p.t, p.links, "Reconnect has to yield the link before it returns")
	old := p.link
	p.link = <-p.links
	require.NotSame(p.t, old, p.link)
}

// disconnect ends the link, but not the worker.
func (p *peer) disconnect() {
	p.t.Helper()
	c := p.channel.(reconnecter)
	require.True(p.t, c.Connected())
	require.NoError(p.t, c.Disconnect())
	require.False(p.t, c.Connected())
	_, err := receive(p.link)
	require.ErrorIs(p.t, err, ipc.ErrDisconnected)
	require.ErrorIs(p.t, p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrDisconnected)
	require.NoError(p.t, p.link.Close())
	require.Nil(p.t, p.process.Exit(), "the worker lives on")
}

// goodbye tells the worker not to wait for another link, and checks its end.
func (p *peer) goodbye() {
	p.t.Helper()
	p.send(drivers.Frame{Kind: drivers.KindGoodbye})
	_, err := receive(p.link)
	require.True(p.t, ended(err), "got error %v, want ErrPeerGone or ErrDisconnected", err)
	p.end()
}

// testReconnect: a worker can be left and found again many times.
func testReconnect(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	first := p.link.Peer()
	for i := range uint64(20) {
		p.echo(i, 1000)
		p.echo(i, 100<<10)
		p.disconnect()
		p.reconnect()
		peer := p.link.Peer()
		assert.Equal(t, first.PID, peer.PID)
		assert.Equal(t, first.Nonce, peer.Nonce, "it is the same run")
		assert.Equal(t, first.MaxMessage, peer.MaxMessage)
	}
	p.echo(100, 1)
	assert.Empty(t, p.links, "a link is yielded once")
	p.goodbye()
}

// testDisconnectWhileBusy: a link can be left while frames cross it, and
// nothing of it shows up on the next.
func testDisconnectWhileBusy(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	for round := range uint64(10) {
		received := make(chan error, 1)
		go func() {
			received <- receiveAll(p.link, func(f drivers.Frame) {
				if f.Method != round+1 {
					t.Errorf("got a frame of link %d on link %d", f.Method-1, round)
				}
			})
		}()
		sent, under := make(chan error, 1), make(chan struct{})
		go func() {
			for tx := uint64(0); ; tx++ {
				size := int(100 << (round % 3 * 5))
				err := p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Method: round + 1, Payload: payload(tx, size)})
				if err != nil {
					sent <- err
					return
				}
				if tx == 10 {
					close(under)
				}
			}
		}()
		<-under
		require.NoError(t, p.channel.(reconnecter).Disconnect())
		require.ErrorIs(t, <-sent, ipc.ErrDisconnected)
		require.ErrorIs(t, <-received, ipc.ErrDisconnected)
		require.NoError(t, p.link.Close())
		p.reconnect()
	}
	p.echo(1, 100)
	p.goodbye()
}

// testReconnectNothingIsLost: what was sent before a Disconnect arrives, once, and
// what has arrived before it is delivered after it.
func testReconnectNothingIsLost(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	sent := uint64(0)
	for i := range uint64(50) {
		for range i % 7 {
			p.send(drivers.Frame{Kind: drivers.KindNotify, Method: methodCounted, Payload: payload(i, int(i)*100)})
			sent++
		}
		p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: i, Payload: payload(i, 100)})
		for !p.link.Ready() {
			p.link.Arm()
			if !p.link.Ready() {
				p.link.Sleep(p.link.Ready)
			}
			p.link.Disarm()
		}
		require.NoError(t, p.channel.(reconnecter).Disconnect())
		f, err := receive(p.link)
		require.NoError(t, err, "the answer has arrived before the link was left")
		require.Equal(t, i, f.Tx)
		_, err = receive(p.link)
		require.ErrorIs(t, err, ipc.ErrDisconnected)
		require.NotErrorIs(t, err, ipc.ErrPeerGone)
		require.NoError(t, p.link.Close())
		p.reconnect()
	}
	p.send(drivers.Frame{Kind: drivers.KindRequest, Method: methodCount})
	require.Equal(t, sent, p.receive().Tx)
	p.goodbye()
}

// testReconnectConnected: to reconnect what is connected does nothing.
func testReconnectConnected(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	require.NoError(t, p.channel.(reconnecter).Reconnect(t.Context()))
	assert.Empty(t, p.links)
	p.echo(1, 100)
	p.goodbye()
}

// testReconnectDead: a worker that has ended meanwhile is gone for good.
func testReconnectDead(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	p.disconnect()
	kill(t, p)
	p.exited()
	c := p.channel.(reconnecter)
	require.ErrorIs(t, c.Reconnect(t.Context()), ipc.ErrPeerGone)
	assert.False(t, c.Connected())
	require.NoError(t, p.channel.Close())
}

// testReconnectContext: no attempt is made under a context that has ended, and
// one that failed does not spoil the next.
func testReconnectContext(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	p.disconnect()
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	err := p.channel.(reconnecter).Reconnect(ctx)
	require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, cause), "got error %v, want the context's", err)
	p.reconnect()
	p.echo(1, 100)
	p.goodbye()
}

// testReconnectNothingStays: links that were left leave nothing behind.
func testReconnectNothingStays(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "reconnect"})
	p.echo(1, 10)
	p.disconnect()
	p.reconnect()
	before := leaktest.Descriptors()
	for range 20 {
		p.echo(1, 10)
		p.disconnect()
		p.reconnect()
	}
	await(func() bool { return len(leaktest.LeakedDescriptors(before)) == 0 }) // what the last worker had may go only now
	p.goodbye()
}

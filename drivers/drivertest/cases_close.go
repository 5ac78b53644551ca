package drivertest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var closeCases = []testCase{
	{"Idle", testCloseIdle},
	{"AtOnce", testCloseAtOnce},
	{"Asleep", testShutdownAsleep},
	{"Twice", testCloseTwice},
	{"Concurrently", testCloseConcurrently},
	{"WhileReceivingLarge", testCloseWhileReceivingLarge},
	{"WhileBusy", testShutdownWhileBusy},
	{"WhatHasArrivedStays", testShutdownKeepsArrived},
	{"ChannelFirst", testCloseChannelFirst},
	{"EndsAccept", testCloseEndsAccept},
}

// ends are the ways in which a host can end a link. After Shutdown the memory
// of the link is still there; p.end closes it.
var ends = map[string]func(drivers.Link){"Close": closeLink, "Shutdown": drivers.Link.Shutdown}

// requireEnded checks that a link that this side has ended says so for ever.
func (p *peer) requireEnded() {
	p.t.Helper()
	for range 3 {
		require.ErrorIs(p.t, p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, 10)}), ipc.ErrDisconnected)
		require.True(p.t, p.link.Ready(), "Ready of an ended link")
		p.link.Sleep(never) // must not block
		p.link.Wake()
		p.link.Arm()
		p.link.Disarm()
	}
}

// testCloseIdle: a worker that waits sees the end, and whoever uses the link
// afterwards gets an error.
func testCloseIdle(t *testing.T, s *suite) {
	for name, end := range ends {
		t.Log(name)
		p := s.start(t, script{Do: "mirror"})
		p.echo(1, 100)
		end(p.link)
		p.requireEnded()
		_, ok, err := look(p.link)
		assert.False(t, ok)
		assert.ErrorIs(t, err, ipc.ErrDisconnected)
		p.end()
	}
}

// testCloseAtOnce: a link may be ended before anything has crossed it.
func testCloseAtOnce(t *testing.T, s *suite) {
	for _, end := range ends {
		p := s.start(t, script{Do: "mirror"})
		end(p.link)
		p.end()
	}
}

// testShutdownAsleep: a reader that sleeps gets the error.
func testShutdownAsleep(t *testing.T, s *suite) {
	for range 10 {
		p := s.start(t, script{Do: "mirror"})
		ended := make(chan error, 1)
		go func() { ended <- receiveAll(p.link, func(drivers.Frame) {}) }()
		awaitParked("receiveAll", 1)
		p.link.Shutdown()
		require.ErrorIs(t, <-ended, ipc.ErrDisconnected)
		p.end()
	}
	// Close waits for the Sleep; the reader role is free meanwhile.
	p := s.start(t, script{Do: "mirror"})
	woken := make(chan struct{})
	go func() {
		for !p.link.Ready() {
			sleepBlocked(p.link, p.link.Ready)
		}
		close(woken)
	}()
	awaitParked("sleepBlocked", 1)
	require.NoError(t, p.link.Close())
	<-woken
	p.end()
}

// testCloseTwice: ending a link, or closing a channel, again does nothing.
func testCloseTwice(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	require.NoError(t, p.link.Close())
	require.NoError(t, p.link.Close())
	p.link.Shutdown()
	require.NoError(t, p.channel.Close())
	require.NoError(t, p.channel.Close())
	p.end()
	require.NoError(t, p.link.Close())
}

// testCloseConcurrently: so it does from several goroutines at once, with
// senders and a sleeper in between.
func testCloseConcurrently(t *testing.T, s *suite) {
	for range 10 {
		p := s.start(t, script{Do: "sink"})
		p.expect("ready")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for tx := uint64(0); ; tx++ {
					if err := p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 1000)}); err != nil {
						assert.ErrorIs(t, err, ipc.ErrDisconnected)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for !p.link.Ready() {
				p.link.Sleep(p.link.Ready)
			}
		})
		for range 3 {
			wg.Go(p.link.Shutdown)
			wg.Go(func() { assert.NoError(t, p.link.Close()) })
			wg.Go(func() { assert.NoError(t, p.channel.Close()) })
		}
		wg.Wait()
		p.end()
	}
}

// testCloseWhileReceivingLarge: a link ends in the middle of a frame.
func testCloseWhileReceivingLarge(t *testing.T, s *suite) {
	for round := range 6 {
		for _, end := range ends {
			p := s.start(t, script{Do: "large", N: 3, Size: 24 << 20})
			p.expect("blocked")
			for range 3 {
				p.receive()
			}
			p.receivePart(round)
			end(p.link)
			p.tell("the end") // it would not hear it: its Send fails
			p.end()
		}
	}
}

// testShutdownWhileBusy: Shutdown may come at any time, also between any two
// steps of a reader.
func testShutdownWhileBusy(t *testing.T, s *suite) {
	for round := range 20 {
		p := s.start(t, script{Do: "source", N: 1 << 20, Size: 2000, Random: true})
		seen := make(chan struct{}, 1<<20)
		ended := make(chan error, 1)
		go func() {
			next := uint64(0)
			ended <- receiveAll(p.link, func(f drivers.Frame) {
				if f.Tx == next && checkPattern(f.Tx, f.Payload) == nil {
					next++
					seen <- struct{}{}
				}
			})
		}()
		for range round * 20 {
			<-seen
		}
		p.link.Shutdown()
		require.ErrorIs(t, <-ended, ipc.ErrDisconnected)
		p.end()
	}
}

// testShutdownKeepsArrived: what arrived before a Shutdown can still be read.
func testShutdownKeepsArrived(t *testing.T, s *suite) {
	const n = 20
	p := s.start(t, script{Do: "source", N: n, Size: 100})
	p.expect("sent")
	await(p.link.Ready)
	p.link.Shutdown()
	var got []uint64
	err := receiveAll(p.link, func(f drivers.Frame) { got = append(got, f.Tx) })
	assert.ErrorIs(t, err, ipc.ErrDisconnected)
	for i, tx := range got {
		assert.EqualValues(t, i, tx)
	}
	p.end()
}

// testCloseChannelFirst: the channel may be closed before its link. That may
// or may not end the link, but it must not do harm.
func testCloseChannelFirst(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	p.echo(1, 100)
	require.NoError(t, p.channel.Close())
	_ = p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Tx: 2})
	p.end()
}

// testCloseEndsAccept: the endpoint of a driver that cannot reconnect yields
// one link, then fails when the host has gone.
func testCloseEndsAccept(t *testing.T, s *suite) {
	if s.caps.Reconnect {
		t.Skip("this driver can reconnect")
	}
	p := s.start(t, script{Do: "accept-again"})
	p.echo(1, 100)
	p.end()
}

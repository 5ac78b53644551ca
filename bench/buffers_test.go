package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
)

// The sum that a filler tells is that of what it writes, all bytes are written, and each time
// others.
func TestFiller(t *testing.T) {
	for _, size := range []int{8, 9, 63, 64, 65, 1000, fillBlock - 1, fillBlock, fillBlock + 1, fillBlock + 7, fillBlock + 8, 3*fillBlock + 100} {
		f := newFiller(size)
		one, two := bytes.Repeat([]byte{0xa5}, size), bytes.Repeat([]byte{0x5a}, size)
		sum := f.fill(one)
		require.Equal(t, sum, sumWords(one), size)
		require.NotEqual(t, sum, f.fill(two), size)
		for i := range one {
			stamped := i%fillBlock < 8
			require.True(t, stamped || one[i] == two[i], "byte %d of %d is left as it was", i, size)
		}
	}
}

// Whatever differs is noticed: a bit anywhere, by the sum, and another buffer, by its mark.
func TestBuffersNotice(t *testing.T) {
	b := make([]byte, 200)
	sum := newFiller(len(b)).fill(b)
	for i := range b {
		b[i] ^= 0x10
		require.NotEqual(t, sum, sumWords(b), i)
		b[i] ^= 0x10
	}
	require.ErrorIs(t, checkSum(nil, sum), suite.ErrGarbled)
	require.ErrorIs(t, checkSum(make([]byte, 8), sum), suite.ErrGarbled)

	needsLinux(t)
	w, err := suite.StartWay(t.Context(), suite.Way{Subject: "shm", Wait: adaptive}, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer a.Close()
	unmarked, err := a.Alloc(t.Context(), 64)
	require.NoError(t, err)
	defer unmarked.Release()
	newFiller(64).fill(unmarked.Bytes())
	_, err = echoBuffer.Call(t.Context(), w, unmarked)
	require.ErrorContains(t, err, suite.ErrGarbled.Error(), "the worker reads the word")
	require.ErrorIs(t, checkMark(unmarked, 64), suite.ErrGarbled)
	require.ErrorIs(t, checkMark(unmarked, 65), suite.ErrGarbled)
}

// What is measured leaves no buffers behind, neither there nor here.
func TestBuffersAreReleased(t *testing.T) {
	for _, way := range suite.Ways(new(suite.Options), justOne, justOne) {
		w, err := suite.StartWay(t.Context(), way, 0)
		require.NoError(t, err)
		a := ipc.NewArena(ipc.ArenaOptions{})
		const size, d = 100_000, 5 * time.Millisecond
		_, err = echoBuffers(t.Context(), w, a, size, 1, d)
		require.NoError(t, err)
		_, err = filledBuffers(t.Context(), w, a, size, d)
		require.NoError(t, err)
		_, err = passBuffers(t.Context(), w, a, size, d)
		require.NoError(t, err)
		_, err = allocBuffers(t.Context(), a, size, d)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return a.Stats().Buffers == 0 }, testTimeout, time.Millisecond, "%v: %+v", way, a.Stats())
		require.Zero(t, a.Stats().Forgotten)
		require.NoError(t, a.Close())
		require.NoError(t, w.Close())
	}
}

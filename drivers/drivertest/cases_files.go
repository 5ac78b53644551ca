package drivertest

import (
	"context"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var fileCases = []testCase{
	{"Mirrored", testFilesMirrored},
	{"AmongOthers", testFilesAmongOthers},
	{"GivenUp", testFilesGivenUp},
	{"NotPassed", testFilesNotPassed},
	{"Unread", testFilesUnread},
}

// passesFiles skips the test unless a link carries files.
func passesFiles(t *testing.T, p *peer) {
	t.Helper()
	if l, ok := p.link.(drivers.Sharer); ok {
		if _, files := l.Shares(); files {
			return
		}
	}
	p.end()
	t.Skip("the link passes no files")
}

// pipes are files whose other ends know what is written to them, and when all have closed them.
type pipes struct {
	t      *testing.T
	ours   []*os.File
	theirs []*os.File
}

func newPipes(t *testing.T, n int) *pipes {
	t.Helper()
	p := &pipes{t: t}
	for range n {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		t.Cleanup(func() { r.Close(); w.Close() })
		p.ours, p.theirs = append(p.ours, r), append(p.theirs, w)
	}
	return p
}

// attached returns the first n of them as attachments of a frame, with numbers from first on.
func (p *pipes) attached(first uint64, n int) *ipc.Attachments {
	if n == 0 {
		return nil
	}
	var a ipc.Attachments
	for i, f := range p.theirs[:n] {
		a.AddFile(first+uint64(i), ipc.NewFile(f))
	}
	return &a
}

// check checks that a frame brings what attached has made, and closes that.
func (p *pipes) check(f *drivers.Frame, first uint64, n int) {
	p.t.Helper()
	if n == 0 {
		require.Nil(p.t, f.Attached)
		return
	}
	require.NotNil(p.t, f.Attached)
	require.Len(p.t, f.Attached.Files, n)
	for i, got := range f.Attached.Files {
		require.Equal(p.t, first+uint64(i), got.Number)
		_, err := got.What.File().Write([]byte{byte(first) + byte(i)})
		require.NoError(p.t, err)
		var b [1]byte
		_, err = io.ReadFull(p.ours[i], b[:])
		require.NoError(p.t, err)
		require.Equal(p.t, byte(first)+byte(i), b[0])
	}
	f.Attached.Release()
}

// closed closes our ends, and waits until no process has one.
func (p *pipes) closed() {
	p.t.Helper()
	for i, f := range p.theirs {
		f.Close()
		_ = p.ours[i].SetReadDeadline(time.Now().Add(watchdog / 2))
		_, err := io.Copy(io.Discard, p.ours[i])
		require.NoError(p.t, err, "a process has kept a file")
	}
}

// testFilesMirrored: files cross in both directions with frames of every size, as many as there
// may be.
func testFilesMirrored(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	passesFiles(t, p)
	files := newPipes(t, ipc.MaxFiles)
	tx := uint64(0)
	for _, size := range []int{0, 10, 4 << 10, 20_000, 300_000, 3 << 20} {
		for _, n := range []int{1, 2, 5, ipc.MaxFiles} {
			tx++
			p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: 7, Payload: payload(tx, size), Attached: files.attached(tx, n)})
			f := p.receive()
			require.Equal(t, tx, f.Tx)
			require.Len(t, f.Payload, size)
			require.NoError(t, checkPattern(tx, f.Payload))
			files.check(&f, tx, n)
		}
	}
	p.echo(tx+1, 100)
	files.closed()
	p.end()
}

// testFilesAmongOthers: files stay with their frames, which others surround: in batches, and of
// several senders.
func testFilesAmongOthers(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	passesFiles(t, p)
	files := newPipes(t, ipc.MaxFiles)
	count := func(tx uint64) int { return max(0, int(tx%11)-5) }
	var frames []drivers.Frame
	for tx := range uint64(200) {
		frames = append(frames, drivers.Frame{Kind: drivers.KindResponse, Tx: tx, Payload: payload(tx, int(tx)*37), Attached: files.attached(tx, count(tx))})
	}
	check := func() uint64 {
		f := p.receive()
		require.NoError(t, checkPattern(f.Tx, f.Payload))
		files.check(&f, f.Tx, count(f.Tx))
		return f.Tx
	}
	var senders sync.WaitGroup
	senders.Go(func() {
		for batch := frames; len(batch) > 0; {
			n := min(17, len(batch))
			done, err := p.link.SendBatch(context.Background(), batch[:n])
			assert.NoError(t, err)
			assert.Equal(t, n, done)
			batch = batch[n:]
		}
	})
	for want := range uint64(200) {
		require.Equal(t, want, check())
	}
	senders.Wait()
	for i := range 4 {
		senders.Go(func() {
			for tx := i * 50; tx < i*50+50; tx++ {
				assert.NoError(t, p.link.Send(context.Background(), &frames[tx]))
			}
		})
	}
	seen := make(map[uint64]bool)
	for range 200 {
		seen[check()] = true
	}
	require.Len(t, seen, 200)
	senders.Wait()
	files.closed()
	p.end()
}

// testFilesGivenUp: a Send that is given up, for want of room, leaves no file behind, and no later
// frame gets one of its.
func testFilesGivenUp(t *testing.T, s *suite) {
	for _, size := range []int{100, 100_000} {
		p := s.start(t, script{Do: "sink", Hold: true})
		passesFiles(t, p)
		p.expect("ready")
		files := newPipes(t, ipc.MaxFiles)
		var sent tally
		tx := p.fill(&sent, 0, size)
		for i := range 10 {
			ctx, cancel := context.WithCancel(context.Background())
			failed := make(chan error, 1)
			go func() { failed <- sendBlockedFiles(ctx, p.link, tx, size, files.attached(1, 1+i)) }()
			awaitParked("sendBlockedFiles", 1)
			cancel()
			require.ErrorIs(t, <-failed, context.Canceled)
		}
		p.tell("go")
		for i := range 30 {
			tx++
			p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size), Attached: files.attached(tx, i%4)})
			sent.sent(tx, size)
		}
		assert.Equal(t, sent, p.report(), "a frame arrives just if Send has not failed")
		files.closed()
		p.end()
	}
}

// sendBlockedFiles is a Send with a name that stacks show.
//
//go:noinline
func sendBlockedFiles(ctx context.Context, l drivers.Link, tx uint64, size int, a *ipc.Attachments) error {
	return l.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size), Attached: a})
}

// testFilesNotPassed: a frame with a file that cannot be passed, or that is too large, is refused
// as a whole, and harms nothing.
func testFilesNotPassed(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"}, withMaxMessage(64<<10))
	passesFiles(t, p)
	files, gone := newPipes(t, 3), newPipes(t, 1)
	gone.theirs[0].Close()
	for tx := range uint64(20) {
		a := files.attached(1, 2)
		a.AddFile(99, ipc.NewFile(gone.theirs[0]))
		f := drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 3000), Attached: a}
		var refused *drivers.AttachError
		require.ErrorAs(t, p.link.Send(context.Background(), &f), &refused)
		require.ErrorIs(t, refused, os.ErrClosed)
		n, err := p.link.SendBatch(context.Background(), []drivers.Frame{{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 10)}, f})
		require.ErrorAs(t, err, &refused)
		require.Equal(t, 1, n)
		require.Equal(t, tx, p.receive().Tx)
		f = drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 64<<10-40), Attached: files.attached(1, 2)}
		var size *ipc.SizeError
		require.ErrorAs(t, p.link.Send(context.Background(), &f), &size, "the handles count")
		f = drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 3000), Attached: files.attached(tx+1, 3)}
		p.send(f)
		f = p.receive()
		require.Equal(t, tx, f.Tx)
		files.check(&f, tx+1, 3)
	}
	files.closed()
	p.end()
}

// testFilesUnread: files that have come and that nobody reads are closed with the link, on either
// side.
func testFilesUnread(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	passesFiles(t, p)
	files := newPipes(t, 3)
	for tx := range uint64(5) {
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Attached: files.attached(1, 3)})
	}
	await(p.link.Ready)
	f := p.receive() // with it the link may have taken more
	files.check(&f, 1, 3)
	require.NoError(t, p.link.Close())
	files.closed()
	p.ended()
}

package broadcast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring"
)

const processMax = 500 // of the payloads that processes write

// createWriter returns a writer in shared memory.
func createWriter(tb testing.TB, size int, start Point) (*Segment, *Writer) {
	tb.Helper()
	seg, err := Create(size, Start(start))
	if errors.Is(err, ErrUnsupported) {
		tb.Skip(err)
	}
	require.NoError(tb, err)
	tb.Cleanup(func() { seg.Close() })
	w, err := NewWriter(seg.Bytes())
	require.NoError(tb, err)
	tb.Cleanup(w.Close)
	return seg, w
}

func init() {
	// follow reads until it has read all records before a number, and ends well if all is as it
	// should be: with 0, or with 7 if it was cut off after some records without a gap.
	helpers["follow"] = func(args []string) {
		n := must(strconv.Atoi(args[0]))
		end := must(strconv.ParseUint(args[1], 10, 64))
		mode := ring.Wait(must(strconv.Atoi(args[2])))
		lossy := args[3] == "lossy"
		conn := helperConn()
		results := make(chan error)
		for _, r := range helperReaders(conn, n, Now) {
			r.SetWait(mode)
			go func() {
				f := follow(r, processMax)
				err := f.until(context.Background(), end)
				if f.gap > 0 && !lossy {
					err = fmt.Errorf("%d records lost: %w", f.gap, err)
				}
				results <- err
			}()
		}
		go exitWith(conn)
		for range n {
			if err := <-results; errors.Is(err, ErrCutOff) {
				os.Exit(7)
			} else if err != nil {
				fmt.Fprintln(os.Stderr, "helper:", err)
				os.Exit(1)
			}
		}
	}
	// write writes until it is killed, or stops in the middle of a record if it is told to.
	helpers["write"] = func(args []string) {
		conn := helperConn()
		seg := must(Create(1 << 16))
		w := must(NewWriter(seg.Bytes()))
		must(0, sendFile(conn, seg.File()))
		if args[0] == "midway" {
			must(0, writeSome(w, 1000, processMax, w.Write))
			must(0, writeSome(w, 10, processMax, w.Append)) // committed, and never published
			buf := must(w.TryClaim(5000))
			copy(buf, payloadOf(nil, 1, 2500))
			must(conn.Write([]byte{1}))
			exitWith(conn)
		}
		go exitWith(conn)
		for {
			must(0, writeSome(w, 1000, processMax, w.Write))
		}
	}
}

// exitCode waits until the process ends by itself, and returns how.
func (p *process) exitCode(t *testing.T) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.cmd.Wait()
	}()
	select {
	case <-done:
	case <-watchdog(t).Done():
		t.Fatal("the process does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop stops the process, and returns when it has stopped.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	var status unix.WaitStatus
	_, err := unix.Wait4(p.cmd.Process.Pid, &status, unix.WUNTRACED, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
}

// A writer here, readers of all kinds in two processes.
func TestProcesses(t *testing.T) {
	for _, mode := range waits {
		t.Run(mode.String(), func(t *testing.T) {
			start := Point{Position: 1<<64 - 1<<20, Sequence: 1<<64 - 1000}
			seg, w := createWriter(t, 1<<14, start)
			w.SetWait(mode)
			n := scaled(20000)
			end := fmt.Sprint(start.Sequence + uint64(n))
			lossy, others := readersIn(t, w, seg, "follow", 2, nil, end, fmt.Sprint(int(mode)), "lossy")
			reliable, peers := readersIn(t, w, seg, "follow", 3, []PeerOption{Reliable(0)}, end, fmt.Sprint(int(mode)), "reliable")
			ctx := watchdog(t)
			require.NoError(t, writeSome(w, n, processMax, func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) }))
			require.Zero(t, reliable.exitCode(t))
			require.Zero(t, lossy.exitCode(t))
			for _, p := range append(peers, others...) {
				p.Remove()
			}
			require.Nil(t, w.peers.Load())
		})
	}
}

// Readers that sleep in other processes are woken by each record.
func TestWakeUpProcesses(t *testing.T) {
	seg, w := createWriter(t, MinSize, Point{})
	n := scaled(2000)
	var peers []*Peer
	var all []*process
	for range 2 {
		p, more := readersIn(t, w, seg, "follow", 3, nil, fmt.Sprint(n), fmt.Sprint(int(ring.WaitPark)), "all")
		peers = append(peers, more...)
		all = append(all, p)
	}
	ctx := watchdog(t)
	require.NoError(t, writeSome(w, n-1, processMax, func(tag byte, payload []byte) error {
		if err := w.Write(tag, payload); err != nil {
			return err
		}
		for _, p := range peers {
			for p.Lag() > 0 {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				runtime.Gosched()
			}
		}
		return nil
	}))
	require.NoError(t, writeSome(w, 1, processMax, w.Write))
	for _, p := range all {
		require.Zero(t, p.exitCode(t))
	}
}

// A writer that dies in the middle of a record, or of a batch, leaves what it has published, and
// nothing else.
func TestWriterIsKilled(t *testing.T) {
	for i := range scaled(20) {
		how := []string{"midway", "any time"}[i%2]
		p := startProcess(t, "write", how)
		seg, err := receiveSegment(p.conn, Open)
		require.NoError(t, err)
		f := follow(newReader(t, seg.Bytes(), nil, Oldest), processMax)
		ctx := watchdog(t)
		if how == "midway" {
			_, err := p.conn.Read(make([]byte, 1))
			require.NoError(t, err)
		} else {
			require.NoError(t, f.until(ctx, f.next+uint64(rand.IntN(5000))))
		}
		require.NoError(t, p.cmd.Process.Kill())
		p.cmd.Wait()
		for ok := true; ok; {
			var rec Record
			rec, ok, err = f.r.Next()
			require.NoError(t, err)
			if ok {
				require.NoError(t, f.check(rec))
			}
		}
		if how == "midway" {
			require.EqualValues(t, 1000, f.next)
		}
		require.False(t, f.r.Ready())
		done := make(chan error)
		go func() { done <- f.r.Wait(ctx) }()
		f.r.Interrupt(errStop)
		require.Equal(t, errStop, <-done)
		// Whoever comes later finds the same.
		late := follow(newReader(t, seg.Bytes(), nil, Now), processMax)
		require.Equal(t, f.r.Point(), late.r.Point())
		late = follow(newReader(t, seg.Bytes(), nil, Oldest), processMax)
		if late.next != f.next {
			require.NoError(t, late.until(ctx, f.next))
		}
		require.Zero(t, late.gap)
		require.NoError(t, seg.Close())
	}
}

// A reliable reader that is killed holds the writer up until its limit is over or its owner has
// noticed. Another one notices nothing.
func TestReaderIsKilled(t *testing.T) {
	for _, opts := range [][]PeerOption{{Reliable(50 * time.Millisecond)}, {Reliable(0), MaxLag(MinSize)}, {Reliable(0)}} {
		seg, w := createWriter(t, MinSize, Point{})
		end := "5000"
		dying, peers := readersIn(t, w, seg, "follow", 2, opts, "1000000000", "0", "reliable")
		good, goodPeers := readersIn(t, w, seg, "follow", 1, []PeerOption{Reliable(0)}, end, "2", "reliable")
		ctx := watchdog(t)
		send := func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) }
		require.NoError(t, writeSome(w, rand.IntN(500), processMax, send))
		require.NoError(t, dying.cmd.Process.Kill())
		if len(opts) == 1 && len(peers) == 2 && peers[0].options.patience == 0 {
			go func() { // its owner
				dying.cmd.Wait()
				for _, p := range peers {
					p.Remove()
				}
			}()
		}
		require.NoError(t, writeSome(w, 5000-int(w.Point().Sequence), processMax, send))
		require.Zero(t, good.exitCode(t))
		for _, p := range peers {
			require.Error(t, p.Err())
			require.True(t, isDone(p))
		}
		if peers[0].options.patience > 0 {
			var slow *SlowError
			require.ErrorAs(t, peers[0].Err(), &slow)
		}
		for _, p := range append(peers, goodPeers...) {
			p.Remove()
		}
		require.Nil(t, w.peers.Load())
	}
}

// A reliable reader that is stopped is cut off, and told when it goes on. It had missed nothing.
func TestReaderIsStopped(t *testing.T) {
	for _, mode := range waits {
		t.Run(mode.String(), func(t *testing.T) {
			seg, w := createWriter(t, MinSize, Point{})
			p, peers := readersIn(t, w, seg, "follow", 1, []PeerOption{Reliable(20 * time.Millisecond)}, "1000000000", fmt.Sprint(int(mode)), "reliable")
			ctx := watchdog(t)
			send := func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) }
			require.NoError(t, writeSome(w, 300, processMax, func(tag byte, payload []byte) error {
				for peers[0].Lag() > MinSize/2 && ctx.Err() == nil { // so that the writer never waits, and loses no patience
					runtime.Gosched()
				}
				return send(tag, payload)
			}))
			require.NoError(t, peers[0].Err())
			p.stop(t)
			require.NoError(t, writeSome(w, 300, processMax, send))
			var slow *SlowError
			require.ErrorAs(t, peers[0].Err(), &slow)
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
			require.Equal(t, 7, p.exitCode(t))
		})
	}
}

package broadcast

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// total is what a record of need bytes takes at the current position, with the padding before
// it and the zero behind it.
func (w *Writer) total(need uint64) uint64 {
	if rest := w.size - w.pos&w.mask; need > rest {
		return rest + need + wordSize
	}
	return need + wordSize
}

// checkSize panics on misuse and returns an error for a payload of n bytes that can never fit.
func (w *Writer) checkSize(n int) error {
	if w.claimed >= 0 {
		panic("tandem: broadcast: a claim is outstanding")
	}
	if n < 0 {
		panic(fmt.Sprintf("tandem: broadcast: claim of %d bytes", n))
	}
	if uint64(n) > w.half-wordSize {
		return &ring.SizeError{What: "record", Size: n, Limit: w.MaxRecord()}
	}
	return nil
}

// makeRoom returns nil if n bytes fit, also when that takes padding or a new intent.
//
//go:noinline
func (w *Writer) makeRoom(n int) error {
	if err := w.checkSize(n); err != nil {
		return err
	}
	total := w.total(recordSize(uint64(n)))
	if total <= w.limit-w.pos {
		return nil
	}
	slowest, err := w.raise(total)
	if slowest == nil || w.wanted != stateNone {
		return err
	}
	// Readers free lazily. Let them know, look again, and leave the word as it is: the next
	// look that finds room clears it.
	w.want(statePolling)
	_, err = w.raise(total)
	return err
}

// want tells readers what state we are in.
func (w *Writer) want(state uint32) {
	w.wanted = state
	w.epoch += epochStep
	// SYNC: pairs with Reader.publish, which stores the position and then loads this word.
	atomic.StoreUint32(w.space, w.epoch|state)
}

// raise says that total bytes from pos on are going to be written. If they cannot be, the error is
// [ErrFull], and the reliable reader that is furthest behind is returned; nil if what
// is appended is itself too much.
func (w *Writer) raise(total uint64) (slowest *Peer, err error) {
	head := w.head.Position
	end := w.pos - head + total // as are all distances here, from head
	if end > w.size {
		return nil, ErrFull
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, ErrClosed
	}
	room, slowest := w.room(head, end)
	if end > room {
		return slowest, ErrFull
	}
	if w.wanted != stateNone {
		w.want(stateNone)
	}
	step := (head+end+w.step-1)&^(w.step-1) - head
	limit := head + min(step, room)
	if head-w.mark.Position >= w.step || limit-w.mark.Position > w.size {
		w.addMark()
	}
	// SYNC: pairs with Reader.kept. Whoever sees a byte that is written up to limit, sees this
	// store; who sees this store sees the mark.
	atomic.StoreUint64(w.intent, limit)
	w.limit = limit
	return nil, nil
}

// room returns how many bytes from head on may be written, and which reader forbids more. It
// cuts off who has to be to write up to end. The caller holds mu.
func (w *Writer) room(head, end uint64) (room uint64, slowest *Peer) {
	room = w.size
	peers := w.peers.Load()
	if peers == nil {
		return room, nil
	}
	gone := false
	for _, p := range *peers {
		if !p.refresh(head, end) {
			gone = true
		} else if r := w.size - (head - p.position); p.options.reliable && r < room {
			room, slowest = r, p
		}
	}
	if gone {
		w.replacePeers()
	}
	return room, slowest
}

// addMark makes head a mark. The caller holds mu.
func (w *Writer) addMark() {
	w.mark = w.head
	at := offMark + int(w.marks%maxMarks)*markSize
	// SYNC: pairs with Reader.readMark, which loads these between two loads of the count.
	atomic.StoreUint64(shared.At64(w.seg, at), w.mark.Position)
	atomic.StoreUint64(shared.At64(w.seg, at+8), w.mark.Sequence)
	w.marks++
	atomic.StoreUint64(shared.At64(w.seg, offMarks), w.marks)
}

// SetWait says how WaitSpace, Claim and Send wait for reliable readers. The default is
// [ring.WaitAdaptive].
func (w *Writer) SetWait(mode ring.Wait) { w.spin.SetMode(wait.Mode(mode)) }

// Interrupt makes a goroutine that is blocked for space, and every later operation that would
// block for space, return err, which must not be nil. Only the first Interrupt's err counts.
// Operations that need not block go on as before. Any goroutine may call it.
func (w *Writer) Interrupt(err error) {
	if err == nil {
		panic("tandem: broadcast: interrupt without an error")
	}
	w.interrupted.Set(err)
	w.wake()
}

// Claim is [Writer.TryClaim], except that it blocks while there is no room. Errors are those of
// [Writer.WaitSpace].
func (w *Writer) Claim(ctx context.Context, n int) ([]byte, error) {
	buf, err := w.TryClaim(n)
	if err != ErrFull {
		return buf, err
	}
	if err := w.WaitSpace(ctx, n); err != nil {
		return nil, err
	}
	return w.TryClaim(n)
}

// Send appends a record with a copy of payload and publishes everything committed. It blocks
// while there is no room. Errors are those of [Writer.WaitSpace]; when there is one, the
// record was not appended, and what was committed before may be published.
func (w *Writer) Send(ctx context.Context, tag byte, payload []byte) error {
	if err := w.SendBatched(ctx, tag, payload); err != nil {
		return err
	}
	w.Publish()
	return nil
}

// SendBatched is Send, except that it leaves the record unpublished: call Publish, or Send,
// after the last one of a batch. If it has to block, it publishes what is pending before.
func (w *Writer) SendBatched(ctx context.Context, tag byte, payload []byte) error {
	err := w.Append(tag, payload)
	if err != ErrFull {
		return err
	}
	if err := w.WaitSpace(ctx, len(payload)); err != nil {
		return err
	}
	return w.Append(tag, payload)
}

// WaitSpace blocks until a record of n bytes fits, or until all reliable readers that keep it from
// that have been cut off by their limits. It publishes what is pending first. Room that was there
// once stays until something is committed.
//
// Errors: a [*ring.SizeError] if n exceeds [Writer.MaxRecord], ctx's error, the error of
// [Writer.Interrupt], [ErrClosed]. When there is room at once, it looks neither at ctx nor at
// Interrupt. It panics if a claim is outstanding or n is negative.
func (w *Writer) WaitSpace(ctx context.Context, n int) error {
	if err := w.checkSize(n); err != nil {
		return err
	}
	w.Publish()
	total := w.total(recordSize(uint64(n)))
	if total <= w.limit-w.pos {
		return nil
	}
	if _, err := w.raise(total); err != ErrFull {
		return err
	}
	return w.waitSpace(ctx, total)
}

func (w *Writer) waitSpace(ctx context.Context, total uint64) error {
	stop := func() bool { return true }
	defer func() { stop() }()
	defer func() {
		if w.wanted != stateNone {
			w.want(stateNone)
		}
	}()
	if w.wanted == stateNone {
		w.want(statePolling)
	}
	w.spin.Begin()
	defer w.spin.Stop()
	for i := 0; ; i++ {
		if _, err := w.raise(total); err != ErrFull {
			w.spin.End()
			return err
		}
		if i%64 == 0 {
			if err := w.quit(ctx); err != nil {
				return err
			}
		}
		if !w.spin.Again() {
			break
		}
	}
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, w.wake)
	}
	for {
		slowest, err := w.raise(total)
		if err != ErrFull {
			w.spin.End()
			return err
		}
		if err := w.quit(ctx); err != nil {
			return err
		}
		w.sleepFor(slowest, total, ctx)
	}
}

// sleepFor sleeps until p, which is the slowest reader, has read more, has to be cut off, or is
// removed, or there is another reason to look.
func (w *Writer) sleepFor(p *Peer, total uint64, ctx context.Context) {
	w.mu.Lock()
	// Under mu, so that Remove, which makes it done under mu, finds us asleep, or we find it done.
	if p.err.Get() != nil {
		w.mu.Unlock()
		return
	}
	bell := p.sleep.Prepare()
	timeout := p.patience()
	w.mu.Unlock()
	w.want(stateParked)
	// SYNC: pairs with Reader.publish, see want.
	if slowest, err := w.raise(total); err != ErrFull || slowest != p || w.quit(ctx) != nil {
		p.sleep.Cancel()
		return
	}
	if timeout > 0 {
		p.sleep.BlockFor(bell, timeout)
	} else {
		p.sleep.Block(bell)
	}
}

// quit returns why a wait for space has to end, if it has.
func (w *Writer) quit(ctx context.Context) error {
	if err := w.interrupted.Get(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tandem: broadcast: no space: %w", err)
	}
	return nil
}

package ipc

import (
	"context"
	"math"
	"time"
)

// makeRoom makes room for a record of n bytes among those that are kept. It waits for reliable subscribers with
// streams, with f.mu unlocked.
func (f *topicFeed) makeRoom(ctx context.Context, n int) error {
	var timer *time.Timer
	for expired := false; ; {
		switch {
		case f.closed:
			return ErrClosed
		case f.dropFor(n):
			return nil
		case expired:
			f.cutBehind()
			continue
		case timer == nil:
			timer = time.NewTimer(f.cutOff)
			defer timer.Stop()
		}
		if f.room == nil {
			f.room = make(chan struct{})
		}
		room := f.room
		f.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-timer.C:
			expired = true
		case <-ctx.Done():
			err = ctx.Err()
		}
		f.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// dropFor forgets the oldest records until one of n bytes has room. It returns false if a reliable subscriber
// has not got the oldest one.
func (f *topicFeed) dropFor(n int) bool {
	for f.ring.full(n) {
		if f.ring.first >= f.floor {
			f.floor = math.MaxUint64
			for s := range f.subs {
				if s.reliable && s.peer == nil {
					f.floor = min(f.floor, s.next)
				}
			}
			if f.ring.first >= f.floor {
				return false
			}
		}
		f.ring.drop()
	}
	return true
}

// cutBehind cuts off the reliable subscribers that have not got the oldest record.
func (f *topicFeed) cutBehind() {
	for s := range f.subs {
		if s.reliable && s.peer == nil && s.next <= f.ring.first {
			f.cutOffNow(s)
		}
	}
}

func (f *topicFeed) cutOffNow(s *topicSub) {
	if !s.gone {
		f.cut++
		f.takeOut(s)
		s.cutOff(ErrCutOff)
	}
}

// freed tells publishers that wait that a reliable subscriber has taken something, or has left.
func (f *topicFeed) freed() {
	if f.room != nil {
		close(f.room)
		f.room = nil
	}
}

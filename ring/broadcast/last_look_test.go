package broadcast

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

// lateContext ends when it is looked at, and then calls before first.
type lateContext struct {
	context.Context
	before func()
}

func (c *lateContext) Err() error {
	c.before()
	return context.Canceled
}

// A reader that waits and finds a reason to quit looks once more: what was published before that reason is read. Here the record comes
// after the last look, and just before the reason.
func TestWaitLooksAfterItsReasonToQuit(t *testing.T) {
	for _, mode := range []ring.Wait{ring.WaitAdaptive, ring.WaitSpin, ring.WaitPark} {
		for _, published := range []bool{false, true} {
			for _, alone := range []bool{false, true} { // without a segment of its own
				t.Run(fmt.Sprint(mode, published, alone), func(t *testing.T) {
					w, r := lastLook(t, alone)
					r.SetWait(mode)
					did := false
					err := r.Wait(&lateContext{context.Background(), func() {
						if published && !did {
							did = true
							require.NoError(t, w.Write(7, nil))
						}
					}})
					if !published {
						require.ErrorIs(t, err, context.Canceled)
						return
					}
					require.NoError(t, err)
					rec, ok, err := r.Next()
					require.NoError(t, err)
					require.True(t, ok)
					require.EqualValues(t, 7, rec.Tag)
				})
			}
		}
	}
}

// The same with Interrupt, at any moment.
func TestWaitMissesNothingBeforeInterrupt(t *testing.T) {
	gone := errors.New("gone")
	for _, mode := range []ring.Wait{ring.WaitAdaptive, ring.WaitSpin, ring.WaitPark} {
		for range scaled(2000) {
			w, r := lastLook(t, false)
			r.SetWait(mode)
			go func() {
				_ = w.Write(0, nil)
				r.Interrupt(gone)
			}()
			require.NoError(t, r.Wait(context.Background()), "the record was published first")
		}
	}
}

func lastLook(t *testing.T, alone bool) (*Writer, *Reader) {
	t.Helper()
	seg, w := newWriter(t, MinSize, Point{})
	if alone {
		return w, newReader(t, seg, nil, Now)
	}
	own := newOwn(t)
	r := newReader(t, seg, own, Now)
	_, err := w.Add(own)
	require.NoError(t, err)
	return w, r
}

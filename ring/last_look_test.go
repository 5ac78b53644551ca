package ring

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
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

// Whoever waits for data and finds a reason to quit looks into the ring once more: what was published
// before there was that reason is read, for instance when the peer has died since. Here the record
// comes after the last look, and just before the reason.
func TestWaitLooksAfterItsReasonToQuit(t *testing.T) {
	for _, wait := range waits {
		for _, published := range []int{0, 1} {
			late := func(p *Producer) context.Context {
				return &lateContext{context.Background(), func() {
					if published > 0 && !p.Pending() && p.head == 0 {
						require.NoError(t, p.Write(7, nil))
					}
				}}
			}
			want := context.Canceled
			if published > 0 {
				want = nil
			}
			t.Run("consumer "+wait.String(), func(t *testing.T) {
				p, c := newPair(t, MinSize, 0)
				c.SetWait(wait)
				require.ErrorIs(t, c.Wait(late(p)), want)
			})
			t.Run("group "+wait.String(), func(t *testing.T) {
				g, _, producers := grouped(t, 3, MinSize)
				g.SetWait(wait)
				require.ErrorIs(t, g.Wait(late(producers[1])), want)
			})
		}
		t.Run("woken group "+wait.String(), func(t *testing.T) {
			g, _, _ := grouped(t, 3, MinSize)
			g.SetWait(wait)
			woken := false
			require.NoError(t, g.Wait(&lateContext{context.Background(), func() {
				if !woken {
					woken = true
					g.Wake()
				}
			}}))
		})
	}
}

// The same with Interrupt, at any moment.
func TestWaitMissesNothingBeforeInterrupt(t *testing.T) {
	ctx := watchdog(t)
	gone := errors.New("gone")
	for _, wait := range waits {
		for range scaled(3000) {
			p, c := newPair(t, MinSize, 0)
			c.SetWait(wait)
			go func() {
				_ = p.Write(0, nil)
				c.Interrupt(gone)
			}()
			if err := c.Wait(ctx); err != nil {
				_, ok, _ := c.Next()
				require.False(t, ok, "a record, after %v", err)
				t.Fatal("the record was published first")
			}
		}
	}
}

package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// A call has one deadline, whatever it waits for: room in the window, room on the link,
// or the answer. The clock here is a bubble's, so times are exact.
func TestOneDeadlineForACall(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"timer": 100 * time.Millisecond, "sweeper": 10 * time.Second} {
		for _, blocked := range []string{"link", "window", "both", "nothing"} {
			t.Run(name+"/"+blocked, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newBlockingLink()
					s := New(Config{Link: l, Codec: ipc.CBOR, Handlers: new(Registry)})
					s.Open()
					defer s.Close(0)
					began := time.Now()
					if blocked == "nothing" || blocked == "window" {
						l.unblock()
					} else {
						time.AfterFunc(timeout*6/10, l.unblock)
					}
					if blocked == "window" || blocked == "both" {
						s.requestWindow.sent.Store(s.requestWindow.size)
						time.AfterFunc(timeout*5/10, func() { s.requestWindow.refill(uint64(s.requestWindow.size)) })
					}
					_, err := echo.Call(context.Background(), s, nil, ipc.WithTimeout(timeout))
					require.ErrorAs(t, err, new(*ipc.TimeoutError))
					require.Equal(t, drivers.KindRequest, (<-l.sent).Kind)
					// The sweeper is late by up to two of its looks.
					late := time.Since(began) - timeout
					require.GreaterOrEqual(t, late, time.Duration(0))
					require.LessOrEqual(t, late, 2*timeout/sweepShare+time.Millisecond)
				})
			})
		}
	}
}

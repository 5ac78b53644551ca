//go:build linux

package rendezvous

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// In any order of events, the counts are those of the connections that there are, and no limit is
// passed. When all have gone nothing is counted.
func TestCountsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gate, err := Gate{
			MaxClients: rapid.IntRange(1, 6).Draw(t, "clients"), MaxPerUser: rapid.IntRange(0, 4).Draw(t, "per user"),
			MaxHellos: rapid.IntRange(1, 8).Draw(t, "hellos"),
			Allow:     rapid.SampledFrom([]func(Peer) error{nil, SameUser}).Draw(t, "allow"),
		}.complete()
		require.NoError(t, err)
		s := &server{gate: gate, counts: counts{gate: gate, by: make(map[counted]int)}}
		var all []*Client
		peers := rapid.Custom(func(t *rapid.T) Peer {
			return Peer{UID: rapid.IntRange(0, 2).Draw(t, "uid"), PID: rapid.IntRange(0, 3).Draw(t, "pid")}
		})
		// count is the oracle: it looks at the connections.
		count := func(which func(*Client) bool) (n int) {
			for _, c := range all {
				if which(c) {
					n++
				}
			}
			return n
		}
		isHello := func(c *Client) bool { return !c.established }
		isClient := func(c *Client) bool { return c.admitted }
		both := func(is func(*Client) bool, p Peer, same func(a, b Peer) bool) func(*Client) bool {
			return func(c *Client) bool { return is(c) && same(c.Peer, p) }
		}
		sameUser := func(a, b Peer) bool { return a.UID == b.UID }
		sameProcess := func(a, b Peer) bool { return a.PID == b.PID && a.PID != 0 }
		roomForClient := func(p Peer) bool {
			return count(isClient) < gate.MaxClients && (gate.MaxPerUser == 0 || count(both(isClient, p, sameUser)) < gate.MaxPerUser)
		}
		roomForHello := func(p Peer) bool {
			return count(isHello) < gate.MaxHellos && count(both(isHello, p, sameProcess)) < max(1, gate.MaxHellos/2) &&
				(gate.Allow == nil || count(both(isHello, p, sameUser)) < max(1, gate.MaxHellos*3/4))
		}
		one := func(t *rapid.T) *Client {
			if len(all) == 0 {
				t.Skip("nobody is there")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
		}
		gone := func() *net.UnixConn { // a connection that does nothing
			return new(net.UnixConn)
		}
		limited := func(err error, room bool) {
			var limit *LimitError
			require.Equal(t, !room, errors.As(err, &limit))
			require.Equal(t, room, err == nil)
			if err != nil {
				require.ErrorIs(t, err, ipc.ErrExhausted)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				p := peers.Draw(t, "peer")
				room := roomForClient(p) && roomForHello(p)
				err := s.counts.enter(p)
				limited(err, room)
				if err == nil {
					all = append(all, &Client{Conn: gone(), Peer: p, server: s})
				}
			},
			"admit": func(t *rapid.T) {
				c := one(t)
				room := c.admitted || roomForClient(c.Peer)
				if c.err == nil {
					limited(c.Admit(), room)
				} else {
					require.Equal(t, c.err, c.Admit())
				}
			},
			"establish": func(t *rapid.T) {
				c := one(t)
				room := c.admitted || roomForClient(c.Peer)
				if c.err == nil {
					limited(c.Established(), room)
				} else {
					require.Equal(t, c.err, c.Established())
				}
			},
			"context": func(t *rapid.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(errOdd)
				c := one(t)
				c.expire(ctx)
				require.Equal(t, c.established, c.err == nil)
			},
			"leave": func(t *rapid.T) {
				c := one(t)
				c.leave()
				for i := range all {
					if all[i] == c {
						all = append(all[:i], all[i+1:]...)
						break
					}
				}
				admitted, established := c.admitted, c.established
				require.Error(t, c.Established(), "it is over")
				require.Equal(t, []bool{admitted, established}, []bool{c.admitted, c.established})
			},
			"": func(t *rapid.T) {
				want := make(map[counted]int)
				for _, c := range all {
					if isClient(c) {
						want[counted{clients, 0}]++
						want[counted{clientsOfUser, c.Peer.UID}]++
					}
					if isHello(c) {
						want[counted{hellos, 0}]++
						want[counted{hellosOfUser, c.Peer.UID}]++
						if c.Peer.PID != 0 {
							want[counted{hellosOfProcess, c.Peer.PID}]++
						}
					}
				}
				require.Equal(t, want, s.counts.by)
				require.LessOrEqual(t, want[counted{clients, 0}], gate.MaxClients)
				require.LessOrEqual(t, want[counted{hellos, 0}], gate.MaxHellos)
			},
		})
		for _, c := range all {
			c.leave()
		}
		require.Empty(t, s.counts.by)
	})
}

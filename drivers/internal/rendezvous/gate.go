package rendezvous

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// Defaults of a [Gate].
const (
	DefaultMaxClients   = 1024
	DefaultMaxHellos    = 128
	DefaultHelloTimeout = 5 * time.Second
)

// Gate says who may be a client of a server, and how many. The zero value admits processes of this user.
type Gate struct {
	// Allow decides whether a process may be a client; nil means [SameUser]. It runs within the time for the
	// hello, for several connections at once. What it says is logged: the client learns that it was
	// not allowed, and no more.
	Allow func(Peer) error
	// MaxClients bounds the clients at a time; 0 means 1024. MaxPerUser bounds those of one user; 0 means
	// that only MaxClients does.
	MaxClients, MaxPerUser int
	// MaxHellos bounds the connections that are not clients yet; 0 means 128. One process has at most half of
	// them, so that one that connects and says nothing does not keep others out; and if Allow is set, one
	// user has at most three quarters.
	MaxHellos int
	// HelloTimeout bounds how long a connection may take to become a client; 0 means 5 s.
	HelloTimeout time.Duration
	// Refusal returns what to send to a client that is refused; nil means [drivers.AppendReason]. As much of it
	// is sent as there is room for at once.
	Refusal func(reason error) []byte
	// Log gets a line for what was refused, one in a second at most; nil means none.
	Log *slog.Logger
}

// complete gives fields that are 0 their defaults, and checks the others.
func (g Gate) complete() (Gate, error) {
	for _, f := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"MaxClients", &g.MaxClients, DefaultMaxClients},
		{"MaxPerUser", &g.MaxPerUser, 0},
		{"MaxHellos", &g.MaxHellos, DefaultMaxHellos},
	} {
		if *f.value < 0 {
			return g, fmt.Errorf("tandem: Gate.%s is %d, need 0 or more", f.name, *f.value)
		}
		if *f.value == 0 {
			*f.value = f.zero
		}
	}
	if g.HelloTimeout < 0 {
		return g, fmt.Errorf("tandem: Gate.HelloTimeout is %v, need 0 or more", g.HelloTimeout)
	}
	if g.HelloTimeout == 0 {
		g.HelloTimeout = DefaultHelloTimeout
	}
	if g.Refusal == nil {
		g.Refusal = func(reason error) []byte { return drivers.AppendReason(nil, reason) }
	}
	if g.Log == nil {
		g.Log = slog.New(slog.DiscardHandler)
	}
	return g, nil
}

// counts are how many connections there are, by what they are and whose.
type counts struct {
	gate Gate

	mu sync.Mutex
	by map[counted]int // none is 0
}

// counted is a group of connections.
type counted struct {
	kind group
	id   int // of the user or the process
}

type group int

const (
	hellos group = iota
	hellosOfUser
	hellosOfProcess
	clients
	clientsOfUser
)

var groupNames = [...]string{
	hellos:          "connections that have not said hello yet",
	hellosOfUser:    "connections of one user that have not said hello yet",
	hellosOfProcess: "connections of one process that have not said hello yet",
	clients:         "clients",
	clientsOfUser:   "clients of one user",
}

// limit returns how many of a group there may be, 0 for as many as there are.
func (c *counts) limit(g group) int {
	switch g {
	case hellos:
		return c.gate.MaxHellos
	case hellosOfUser:
		if c.gate.Allow == nil {
			return 0 // there is one user only
		}
		return max(1, c.gate.MaxHellos*3/4)
	case hellosOfProcess:
		return max(1, c.gate.MaxHellos/2)
	case clients:
		return c.gate.MaxClients
	case clientsOfUser:
		return c.gate.MaxPerUser
	}
	return 0
}

func helloGroups(p Peer) []counted {
	groups := []counted{{hellos, 0}, {hellosOfUser, p.UID}}
	if p.PID != 0 {
		groups = append(groups, counted{hellosOfProcess, p.PID})
	}
	return groups
}

func clientGroups(p Peer) []counted { return []counted{{clients, 0}, {clientsOfUser, p.UID}} }

// full returns an error if there is no room for one more in one of the groups. c.mu is held.
func (c *counts) full(groups []counted) error {
	for _, g := range groups {
		if limit := c.limit(g.kind); limit > 0 && c.by[g] >= limit {
			return &LimitError{What: groupNames[g.kind], Limit: limit}
		}
	}
	return nil
}

func (c *counts) add(groups []counted, n int) {
	for _, g := range groups {
		if c.by[g] += n; c.by[g] == 0 {
			delete(c.by, g)
		}
	}
}

// enter counts a connection that is to say hello, if there is room for it, and for one more client.
func (c *counts) enter(p Peer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.full(clientGroups(p)); err != nil {
		return err
	}
	if err := c.full(helloGroups(p)); err != nil {
		return err
	}
	c.add(helloGroups(p), 1)
	return nil
}

// admit counts a connection as a client, too, if there is room for it.
func (c *counts) admit(p Peer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.full(clientGroups(p)); err != nil {
		return err
	}
	c.add(clientGroups(p), 1)
	return nil
}

// leave takes a connection out of groups that it is in.
func (c *counts) leave(groups []counted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(groups, -1)
}

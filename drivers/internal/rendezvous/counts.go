package rendezvous

import "sync"

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

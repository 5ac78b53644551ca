package rendezvous

import (
	"fmt"
	"log/slog"
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

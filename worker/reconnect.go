package worker

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// Reconnect says how a [ServiceClient] finds its service again. The zero value waits for about 100
// ms before an attempt and twice as long before each further one, up to 5 s, and does not give up.
// There is no pause before the first attempt if the link has lived longer than MaxDelay, or the
// service has said goodbye, unless several in a row have done so.
type Reconnect struct {
	// Delay is the first pause; 0 means 100 ms. Each later pause is twice as
	// long as the one before. All are varied by up to a quarter, so that clients that lost
	// their service together do not return together. After a link that has lived longer than
	// MaxDelay the pauses begin again with Delay.
	Delay time.Duration
	// MaxDelay bounds the pauses; 0 means 5 s.
	MaxDelay time.Duration
	// MaxAttempts is how many attempts in a row may fail before the service is given up; 0
	// means any number.
	MaxAttempts int
	// Wait makes [Dial] itself try again, in the same way, while nobody listens, until its context
	// or [WithStartTimeout] ends it. Without it Dial fails at once.
	Wait bool
}

// WithReconnect makes the client of a service connect again when its link has ended though
// nobody has closed the client: the service was restarted, has handed over to another process,
// or has ended for a while. New calls wait meanwhile, within their contexts and timeouts. Calls
// that were pending when the link ended fail with an error that wraps [ipc.ErrPeerGone], unless
// [WithRetry] says otherwise; those that the service has certainly not begun are sent again,
// whatever their method is declared. When a service says goodbye, new calls go to the next link,
// while those that are pending get their answers over the last.
//
// [WithEvents] tells what happens. The client gives up when the services do not agree, for instance
// in the version of the protocol; calls then fail with the reason. WithReconnect is for [Dial]. It
// panics if a field is negative.
func WithReconnect(r Reconnect) Option {
	if r.Delay < 0 || r.MaxDelay < 0 || r.MaxAttempts < 0 {
		panic(fmt.Sprintf("tandem: Reconnect{Delay: %v, MaxDelay: %v, MaxAttempts: %d} has a negative field", r.Delay, r.MaxDelay, r.MaxAttempts))
	}
	return func(s *Settings) { s.reconnect = &r }
}

const (
	defaultReconnectDelay    = 100 * time.Millisecond
	defaultReconnectMaxDelay = 5 * time.Second
)

// complete returns r with its defaults.
func (r Reconnect) complete() Reconnect {
	if r.Delay == 0 {
		r.Delay = defaultReconnectDelay
	}
	if r.MaxDelay == 0 {
		r.MaxDelay = defaultReconnectMaxDelay
	}
	return r
}

// WithPeerCheck makes allow decide whether the process that listens may be the service, by what the
// system says of it, before a byte is sent. Without it the service has to run as the effective user
// of this process. It is for [Dial]; which clients a service takes is said by [drivers.ListenConfig].
// It panics if allow is nil.
func WithPeerCheck(allow func(drivers.Credentials) error) Option {
	mustBeSet("WithPeerCheck", allow == nil)
	return func(s *Settings) { s.peerCheck = allow }
}

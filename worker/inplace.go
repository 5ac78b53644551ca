package worker

import (
	"context"
	"errors"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// HandleInPlace is [Handle] for handlers of raw methods that are to move as little
// memory as can be: f reads the request where it lies, and the response goes from
// where it is, or was built, straight onto the link. Nothing is allocated, and what
// f is given, the context included, is valid only until it returns: see [InPlace].
//
// The codec of m has to be raw, or the link's; else calls fail with CodeInternal.
func HandleInPlace(r Registrar, m *ipc.Method[[]byte, []byte], f func(ctx context.Context, call *InPlace) error, opts ...HandlerOption) {
	h := &handler{info: m.Info(), inPlace: true}
	h.invoke = func(j *job) ([]byte, error) {
		if codec := m.Codec(j.session.codec); codec != ipc.Raw {
			return nil, ipc.Errorf(ipc.CodeInternal, "the handler of %q works in place, and needs codec raw, not %s", m.Info().Name, codec.Name())
		}
		j.place.job = j
		if err := f(j.ctx, &j.place); err != nil {
			return nil, err
		}
		return j.place.reply, nil
	}
	r.handlers().add(h, opts)
}

// InPlace is one call of a handler that was added with [HandleInPlace]. It is for
// the handler's goroutine, until the handler returns; so is all memory that its
// methods return.
//
// With shared memory that memory is the link's. While a handler keeps a request
// there, what its peer sends next has the rest of the ring, and then has to wait;
// while it has claimed room for its response, nothing else is sent on this link.
// So be quick, and make no calls over the same link: after Claim none can be sent, and
// before it an answer that needs more room than is left never comes. Other links are
// not affected. A handler that takes longer than a second is
// reported to the logger.
type InPlace struct {
	job     *job
	reply   []byte
	asked   bool   // for a claim
	claimed []byte // of the link's memory
}

// Request returns the request where it lies. With shared memory that may be memory
// of the peer's, which the peer can change at any time: what is checked has to
// be copied before. It must not be written to.
func (c *InPlace) Request() []byte { return c.job.request }

// Reply sets the response, which is empty by default. It is sent when the handler
// returns nil, and must not change before. It may be the request or a part of
// it, memory from Claim, or any other; the last one counts. Of notifications it
// is dropped.
func (c *InPlace) Reply(response []byte) { c.reply = response }

// Claim returns n bytes to build the response in, with whatever was there before,
// and makes them the response; Reply can shorten it. With shared memory they lie
// in the ring, where the peer can see them, if there is room for it; otherwise they
// will be copied. It may be called once, waits for room in the ring, and fails when
// the context of the handler or the link ends.
//
// It panics if n is negative or it was called before.
func (c *InPlace) Claim(n int) ([]byte, error) {
	if n < 0 || c.asked {
		panic("tandem: InPlace.Claim: of less than nothing, or the second one")
	}
	c.asked = true
	j := c.job
	if s := j.session; s.claimer != nil && !j.oneWay && n > 0 {
		buf, err := s.claimer.Claim(j.ctx, drivers.Frame{Kind: drivers.KindResponse, Tx: j.tx}, n)
		if err == nil {
			c.claimed, c.reply = buf, buf
			return buf, nil
		}
		var tooLarge *ipc.SizeError
		if !errors.As(err, &tooLarge) {
			return nil, err
		}
	}
	if cap(j.out) < n {
		j.out = make([]byte, n)
	}
	c.reply = j.out[:n]
	return c.reply, nil
}

// commit sends the response where room for it was claimed. Otherwise it returns
// false, and nothing is claimed any more.
func (c *InPlace) commit(response []byte) bool {
	n := len(response)
	if c.claimed == nil || n > len(c.claimed) {
		c.abort()
		return false
	}
	// A part of what was claimed, too, would be another's after an abort.
	if n > 0 && &response[0] != &c.claimed[0] {
		copy(c.claimed, response)
	}
	c.claimed = nil
	c.job.session.claimer.Commit(n)
	return true
}

// abort gives up what was claimed, if anything was.
func (c *InPlace) abort() {
	if c.claimed != nil {
		c.claimed = nil
		c.job.session.claimer.Abort()
	}
}

// leaseLimit is how long a handler may keep memory of a link before that is
// reported.
const maxLease = time.Second

// leaseWatch reports a handler that keeps memory of its link for too long. A nil
// one does nothing.
type leaseWatch struct{ timer *time.Timer }

// watchLease starts to watch a run of h that is in place and was found not to be quick.
func (s *session) watchLease(h *handler) *leaseWatch {
	if !h.inPlace {
		return nil
	}
	return &leaseWatch{time.AfterFunc(maxLease, func() {
		s.log.Warn("tandem: a handler keeps memory of its link for long: the link may stall", "method", h.info.Name, "after", maxLease)
	})}
}

func (w *leaseWatch) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

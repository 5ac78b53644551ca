package engine

import (
	"errors"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/bulk"
)

// placement is where the response of a handler in place lies.
type placement struct {
	reply   []byte
	asked   bool              // for a claim
	claimed []byte            // of the link's memory
	meta    *drivers.Metadata // that the claim has sent
}

// Payload returns the request where it lies.
func (r *Request) Payload() []byte { return r.payload }

// SetReply sets the response of a handler in place.
func (r *Request) SetReply(response []byte) { r.inPlace.reply = response }

// Reply returns what SetReply or Claim has set last.
func (r *Request) Reply() []byte { return r.inPlace.reply }

// Claim returns n bytes to build the response in, and makes them the response. They
// lie in the memory of the link if that has room for them. It panics if n is negative,
// or if it was called before.
func (r *Request) Claim(n int) ([]byte, error) {
	p := &r.inPlace
	if n < 0 || p.asked {
		panic("tandem: InPlace.Claim: a negative number of bytes, or the second claim")
	}
	p.asked = true
	if s := r.session; s.claimer != nil && !r.oneWay && n > 0 {
		r.freezeMeta()
		buf, err := s.claimer.Claim(r.ctx, r.respond(nil), n)
		if err == nil {
			p.claimed, p.reply, p.meta = buf, buf, r.answer.Meta
			return buf, nil
		}
		var tooLarge *ipc.SizeError
		if !errors.As(err, &tooLarge) {
			return nil, err
		}
	}
	if cap(r.Out) < n {
		r.Out = make([]byte, n)
	}
	p.reply = r.Out[:n]
	return p.reply, nil
}

// commit sends the response where room for it was claimed. Otherwise it returns false,
// and nothing is claimed any more, so the response may be elsewhere.
func (r *Request) commit(response []byte) (_ []byte, sent bool) {
	p := &r.inPlace
	n := len(response)
	if p.claimed == nil {
		return response, false
	}
	if changed := r.answer.Meta != p.meta; changed || n > len(p.claimed) {
		if changed {
			r.Out = append(r.Out[:0], response...)
			response = r.Out
		}
		r.abort()
		return response, false
	}
	// After an abort the claimed memory is another sender's, so a part of it is copied
	// before.
	if n > 0 && &response[0] != &p.claimed[0] {
		bulk.Copy(p.claimed, response)
	}
	p.claimed = nil
	r.session.claimer.Commit(n)
	return nil, true
}

// abort gives up what was claimed, if anything was.
func (r *Request) abort() {
	if r.inPlace.claimed != nil {
		r.inPlace.claimed = nil
		r.session.claimer.Abort()
	}
}

// maxLease is how long a handler may keep memory of a link before that is reported.
const maxLease = time.Second

// leaseWatch reports a handler that keeps memory of its link for too long. A nil one
// does nothing.
type leaseWatch struct{ timer *time.Timer }

// watchLease starts to watch a run of h that is in place and was found not to be quick.
func (s *Session) watchLease(h *Handler) *leaseWatch {
	if !h.InPlace {
		return nil
	}
	return &leaseWatch{time.AfterFunc(maxLease, func() {
		s.config.Log.Warn("tandem: a handler keeps memory of its link for long: the link may stall", "method", h.Info.Name, "after", maxLease)
	})}
}

func (w *leaseWatch) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

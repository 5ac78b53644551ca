package worker

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// HandleInPlace is [Handle] for handlers of raw methods that are to move as little
// memory as can be: f reads the request where it lies, and the response goes from
// where it is, or was built, straight onto the link. Nothing is allocated, and what
// f is given, the context included, is valid only until it returns: see [InPlace].
//
// The codec of m has to be raw, or the link's; else calls fail with CodeInternal.
// HandleInPlace panics as Handle does.
func HandleInPlace(r Registrar, m *ipc.Method[[]byte, []byte], f func(ctx context.Context, call InPlace) error, opts ...HandlerOption) {
	checkHandler("HandleInPlace", m == nil, f == nil)
	h := &engine.Handler{Info: m.Info(), InPlace: true}
	h.Invoke = func(r *engine.Request) ([]byte, error) {
		if codec := m.Codec(r.Codec()); codec != ipc.Raw {
			return nil, ipc.Errorf(ipc.CodeInternal, "the handler of %q works in place, and needs codec raw, not %s", m.Info().Name, codec.Name())
		}
		if err := f(r.Context(), InPlace{r}); err != nil {
			return nil, err
		}
		return r.Reply(), nil
	}
	register(r, h, opts)
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
type InPlace struct{ request *engine.Request }

// Request returns the request where it lies. With shared memory that may be memory
// of the peer's, which the peer can change at any time: what is checked has to
// be copied before. It must not be written to.
func (c InPlace) Request() []byte { return c.request.Payload() }

// Reply sets the response, which is empty by default. It is sent when the handler
// returns nil, and must not change before. It may be the request or a part of
// it, memory from Claim, or any other; the last one counts. Of notifications it
// is dropped.
func (c InPlace) Reply(response []byte) { c.request.SetReply(response) }

// Claim returns n bytes to build the response in, with whatever was there before,
// and makes them the response; Reply can shorten it. With shared memory they lie
// in the ring, where the peer can see them, if there is room for it; otherwise they
// will be copied. It may be called once, waits for room in the ring, and fails when
// the context of the handler or the link ends.
//
// It panics if n is negative or it was called before.
func (c InPlace) Claim(n int) ([]byte, error) { return c.request.Claim(n) }

package worker

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// HandleInPlace is [Handle] for handlers of raw methods that copy as little memory as
// possible. f reads the request where it lies, and its response goes straight from where
// it is, or was built, to the link. Nothing is allocated. What f gets, the context
// included, is valid only until f returns: see [InPlace].
//
// m has to use the codec [ipc.Raw], by its own choice or the link's; otherwise calls fail
// with CodeInternal. HandleInPlace panics as Handle does.
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

// InPlace is one call of a handler that was added with [HandleInPlace]. Only the
// handler's goroutine may use it and the memory that its methods return, and only until
// the handler returns.
//
// With shared memory that memory lies in the link's ring. Until the handler returns, its
// peer can use only the rest of the ring, and then has to wait. After Claim nothing else
// can be sent on this link. So be quick, and make no calls over the same link: after
// Claim a call cannot be sent, and before it an answer that needs more room than is left
// never comes. Other links are not affected. If a handler takes longer than a second,
// the logger is told.
type InPlace struct{ request *engine.Request }

// Request returns the request where it lies. It must not be written to. With shared
// memory the peer may change it at any time, so copy what you check before you check it.
func (c InPlace) Request() []byte { return c.request.Payload() }

// Reply sets the response, which is empty by default. The last one that was set is sent
// when the handler returns nil, and must not change before that. It may be the request
// or a part of it, memory from Claim, or any other memory. Notifications have no
// response.
func (c InPlace) Reply(response []byte) { c.request.SetReply(response) }

// Claim returns n bytes to build the response in, and makes them the response; Reply can
// shorten it. What the bytes hold at first is undefined. With shared memory they lie in
// the ring, where the peer can see them at once; if they are too many for that they will
// be copied. Claim waits for room in the ring, and fails when the context of the handler
// or the link ends.
//
// Claim panics if n is negative, or if it was called before.
func (c InPlace) Claim(n int) ([]byte, error) { return c.request.Claim(n) }

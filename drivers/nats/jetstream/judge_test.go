package jetipc

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// What a sink makes of the answers of a server.
func TestJudge(t *testing.T) {
	refused := func(status, code int) string {
		return fmt.Sprintf(`{"error":{"code":%d,"err_code":%d,"description":"x"},"stream":"OUT","seq":0}`, status, code)
	}
	for answer, want := range map[string]struct {
		forever, doubled, again bool
		err                     error
	}{
		`{"stream":"OUT","seq":7}`:                  {},
		`{"stream":"OUT","seq":7,"duplicate":true}`: {doubled: true},
		refused(400, codeWrongLast):                 {forever: true, doubled: true},
		refused(400, codeWrongLast) + " ":           {err: &natsjs.APIError{}},
		refused(400, codeConflictToo):               {forever: true, again: true}, // it may not become one of the stream
		refused(400, codeConflict):                  {again: true},
		refused(503, 10008):                         {again: true},
		refused(400, codeAccountFull):               {again: true},
		refused(400, 10054):                         {err: &natsjs.APIError{}},
		`{"seq":7}`:                                 {err: ipc.ErrProtocol},
		`{"stream":"OUT"}`:                          {err: ipc.ErrProtocol},
		`nonsense`:                                  {err: ipc.ErrProtocol},
	} {
		b := &outbox{forever: want.forever}
		doubled, again, err := b.judge(&nats.Msg{Data: []byte(answer)})
		require.Equal(t, want.doubled, doubled, answer)
		require.Equal(t, want.again, again, answer)
		switch want.err.(type) {
		case nil:
			require.True(t, err == nil || again, answer)
		case *natsjs.APIError:
			require.ErrorAs(t, err, new(*natsjs.APIError), answer)
		default:
			require.ErrorIs(t, err, want.err, answer)
		}
	}
	nobody := &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	_, again, err := new(outbox).judge(nobody)
	require.True(t, again)
	require.ErrorIs(t, err, nats.ErrNoResponders)
}

package ipc_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// taker is a caller that keeps all memory that it is given, as it may, and fills it.
type taker struct {
	random *rand.Rand
	codec  ipc.Codec
	kept   [][]byte
}

var errTaker = errors.New("as it happens")

func (c *taker) Codec() ipc.Codec { return c.codec }

func (c *taker) Invoke(_ context.Context, _ *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if len(memory) > 0 {
		return nil, errors.New("memory that is not empty")
	}
	response := append(make([]byte, 0, len(request)+c.random.IntN(100)), request...)
	if memory = memory[:cap(memory)]; len(memory) > 0 {
		for _, other := range c.kept {
			if &other[0] == &memory[0] {
				return nil, errors.New("memory that was given before")
			}
		}
		for i := range memory {
			memory[i] = 0xff
		}
		c.kept = append(c.kept, memory)
	}
	if c.random.IntN(2) == 0 {
		return nil, errTaker
	}
	return response, nil
}

// Memory that a caller has taken over is nobody else's any more, whether the call has failed or not.
func TestInvokeTakesMemoryOver(t *testing.T) {
	type number struct{ N int64 }
	for name, codec := range map[string]ipc.Codec{"cbor": ipc.CBOR, "json": ipc.JSON, "fixed": ipc.Fixed} {
		t.Run(name, func(t *testing.T) {
			c := &taker{random: rand.New(rand.NewPCG(1, 2)), codec: ipc.CBOR}
			method := ipc.NewMethod[number, number]("test.number", ipc.WithCodec(codec))
			withBuffers := ipc.NewMethod[parcel, parcel]("test.parcel")
			raw := ipc.NewMethod[[]byte, []byte]("test.raw", ipc.WithCodec(ipc.Raw))
			var into number
			var bytes []byte
			ok := 0
			for i := range int64(1000) {
				got, err := number{i}, error(nil)
				switch c.random.IntN(5) {
				case 0:
					got, err = method.Call(t.Context(), c, number{i})
				case 1:
					err = method.CallInto(t.Context(), c, number{i}, &into)
					got = into
				case 2:
					var f *ipc.Future[number]
					f, err = method.Go(t.Context(), c, number{i})
					require.NoError(t, err)
					got, err = f.Wait(t.Context())
				case 3:
					var p parcel
					p, err = withBuffers.Call(t.Context(), c, parcel{N: i})
					got.N = p.N
				case 4:
					if err = raw.CallInto(t.Context(), c, []byte{byte(i)}, &bytes); err == nil {
						require.Equal(t, []byte{byte(i)}, bytes)
					}
				}
				if err != nil {
					require.ErrorIs(t, err, errTaker)
					continue
				}
				require.Equal(t, i, got.N)
				ok++
			}
			require.Greater(t, ok, 100)
			require.NotEmpty(t, c.kept)
			for _, memory := range c.kept {
				for _, b := range memory {
					require.EqualValues(t, 0xff, b, "somebody has written to it")
				}
			}
		})
	}
}

// parcel is a message that may have buffers.
type parcel struct {
	N    int64
	Some []ipc.Buffer
}

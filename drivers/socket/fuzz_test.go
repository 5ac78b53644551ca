package socket

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

// FuzzStream reads a stream in pieces of any size. It yields the same frames, and ends with
// the same error, as if it came at once; and frames that are held do not change.
func FuzzStream(f *testing.F) {
	stream := func(frames ...drivers.Frame) (b []byte) {
		for i := range frames {
			b = appendFrame(b, &frames[i])
		}
		return b
	}
	small := drivers.Frame{Kind: drivers.KindRequest, Tx: 2, Method: 7, Remaining: time.Second, Payload: []byte("small")}
	large := drivers.Frame{Kind: drivers.KindResponse, Tx: 3, Payload: make([]byte, 3000)}
	good := stream(small, large, small, drivers.Frame{Kind: drivers.KindPing}, large)
	abandoned := bytes.Clone(stream(large))
	abandoned[len(abandoned)-1] = endAbandoned
	for _, chunks := range [][]byte{nil, {1}, {7, 200}, {255, 1, 8}} {
		f.Add(good, chunks)
		f.Add(good[:len(good)-100], chunks)
		f.Add(append(abandoned, good...), chunks)
		f.Add(append(appendPrefix(nil, 8, 0, byte(kindDetach)), make([]byte, 8)...), chunks)
		f.Add(append(appendPrefix(nil, 9, 0, byte(kindDetach)), make([]byte, 9)...), chunks)
		f.Add(appendPrefix(nil, -1, 0, 1), chunks)
		f.Add(append(appendPrefix(nil, fuzzLimit, 0, 2), make([]byte, 100)...), chunks)
		f.Add(append(appendPrefix(nil, 0, 0, 1), 1, 2, 3), chunks)
		f.Add([]byte{8, 0, 0, 0, 1, 1, 0, 0}, chunks)
	}
	f.Fuzz(func(t *testing.T, stream, chunks []byte) {
		require.Equal(t, readStream(t, stream, nil), readStream(t, stream, chunks))
	})
}

// fuzzLimit is more than what a reader has a buffer for.
const fuzzLimit = maxBuffer + 1000

// readStream says what a reader makes of a stream that comes in chunks, whose sizes
// repeat; without any it comes as fast as it is read. A chunk of an odd size holds the next
// frame.
func readStream(t *testing.T, stream, chunks []byte) (said []string) {
	var rd reader
	var held, copies [][]byte
	hold := false
	for i := 0; ; {
		complete := rd.large == nil && rd.holdsFrame(fuzzLimit)
		var fr drivers.Frame
		ok, dropped, err := rd.take(&fr, fuzzLimit)
		if rd.large == nil {
			require.Equal(t, complete, ok || dropped || err != nil)
		}
		switch {
		case err != nil:
			said = append(said, err.Error())
		case ok:
			said = append(said, fmt.Sprintf("%v %d %d %v %q", fr.Kind, fr.Tx, fr.Method, fr.Remaining, fr.Payload))
			if hold && len(held) < 100 {
				held, copies, rd.held = append(held, fr.Payload), append(copies, bytes.Clone(fr.Payload)), true
			}
		case dropped:
			said = append(said, "dropped")
		}
		if ok || dropped {
			continue
		}
		if err == nil && len(stream) == 0 {
			said = append(said, rd.where())
		}
		if err != nil || len(stream) == 0 {
			break
		}
		n := len(stream)
		if len(chunks) > 0 {
			n = min(n, int(chunks[i%len(chunks)])+1)
			hold = n%2 == 1
			i++
		}
		room := rd.room(fuzzLimit)
		require.NotEmpty(t, room)
		n = copy(room, stream[:n])
		stream = stream[n:]
		if rd.large != nil {
			rd.got += n
		} else {
			rd.w += n
		}
	}
	require.Equal(t, copies, held)
	return append(said, fmt.Sprint(rd.detached.Load()))
}

// FuzzRef decodes texts. What is a reference has a text of its own, which means the same.
func FuzzRef(f *testing.F) {
	good := Ref{
		Path: "/run/user/1000/tandem-1/s", Private: true, PID: 4711, StartTime: 123456, Nonce: math.MaxUint64, UID: 1000,
		Program: "worker", Codec: "cbor", MaxMessage: drivers.DefaultMaxMessage, Timeouts: drivers.DefaultTimeouts(), Detached: true,
	}
	f.Add(good.String())
	f.Add(good.String()[:30])
	f.Add("tandem:")
	f.Add("tandem:oA")
	f.Add("tandem:n5-fn5-fn5-fn5-f")
	f.Add("tandem:" + string(bytes.Repeat([]byte("A"), maxRef)))
	f.Add("https://example.org")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRef(text)
		if err != nil {
			require.ErrorIs(t, err, ErrBadRef)
			require.Zero(t, r)
			require.Less(t, len(err.Error()), 1000, "an error that one can read")
			return
		}
		again, err := ParseRef(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

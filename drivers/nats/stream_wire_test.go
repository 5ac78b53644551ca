package natsipc

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// Whatever comes as the header of an opening is refused or means what is said again.
func FuzzParseStream(f *testing.F) {
	h := streamHeader{granted: 1 << 40, first: true, only: true, lasting: true}
	got, err := parseStream(h.String())
	require.NoError(f, err)
	require.Equal(f, h, got)
	for _, s := range []string{h.String(), "", "1", "1 ", "-1 -", "x -", "1 -fol", "99999999999999999999 -"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseStream(s)
		if err != nil {
			return
		}
		again, err := parseStream(h.String())
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.GreaterOrEqual(t, h.granted, int64(0))
	})
}

// Whatever comes as metadata of a stream, however often, is refused or keeps the limits.
func FuzzStreamNotes(f *testing.F) {
	b, err := streamNote{Header: ipc.Pairs("k", "v"), Trailer: ipc.Pairs("a", "1", "b", "2")}.encode()
	require.NoError(f, err)
	var header, trailer ipc.Metadata
	r := streamMeta{&header, &trailer}
	require.NoError(f, r.take(b))
	require.Equal(f, ipc.Pairs("k", "v"), header)
	require.Equal(f, ipc.Pairs("a", "1", "b", "2"), trailer)
	for err = nil; err == nil; err = r.take(b) {
	}
	require.NoError(f, header.Check())
	require.NoError(f, trailer.Check())
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte("\xa1\x01\x9b\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var header, trailer ipc.Metadata
		r := streamMeta{&header, &trailer}
		for range 3 {
			_ = r.take(b)
			require.NoError(t, header.Check())
			require.NoError(t, trailer.Check())
		}
	})
}

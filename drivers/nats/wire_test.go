package natsipc

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Whatever comes as the header of a request is refused or means what is said again.
func FuzzParseCall(f *testing.F) {
	h := callHeader{id: 1 << 63, codec: "cbor", order: byteOrder, timeout: time.Second, heartbeat: time.Minute, attempts: 3, oneWay: true, idempotent: true}
	for _, s := range []string{h.String(), "", "1", "2 1 cbor le 0 0 0 -", "1 0 cbor le 0 0 0 -", "1 1 cbor le -1 0 0 -", "1 1 cbor le 0 0 99999999999 -"} {
		f.Add(s)
	}
	got, err := parseCall(h.String())
	require.NoError(f, err)
	require.Equal(f, h, got)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseCall(s)
		if err != nil {
			return
		}
		again, err := parseCall(h.String())
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.LessOrEqual(t, h.attempts, maxAttempts)
		require.False(t, h.timeout < 0 || h.heartbeat < 0 || h.attempts < 0 || h.id == 0)
	})
}

// Any name of a method becomes tokens of a subject, and is found again; any field is refused or keeps the limits.
func FuzzNamesAndMetadata(f *testing.F) {
	for _, s := range []string{"text.count", "", ".", "a..b", "a b*>%", "\r\n\x00", "k=v", "k=%zz", "K=v"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		subject := subjectOf(s)
		require.NotRegexp(t, `[^A-Za-z0-9_%.-]|^\.|\.$|\.\.`, subject)
		name, err := methodOf(subject)
		require.NoError(t, err)
		require.Equal(t, s, name)
		md, err := metadataOf(&nats.Msg{Header: nats.Header{headerMeta: {s, s}}}, headerMeta)
		if err == nil {
			require.NoError(t, md.Check())
			require.Len(t, md, 2)
			m := &nats.Msg{Header: nats.Header{}}
			setMetadata(m, headerMeta, md)
			again, err := metadataOf(m, headerMeta)
			require.NoError(t, err)
			require.Equal(t, md, again)
		}
	})
}

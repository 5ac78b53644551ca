package ipc_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// Metadata is a list of fields, whatever is done to it, and what others have of it stays as it is.
func TestMetadataOperations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type model [][2]string
		var md ipc.Metadata
		var want model
		kept := make(map[*ipc.Metadata]model) // what others have
		key := rapid.SampledFrom([]string{"a", "b", "c"})
		value := rapid.SampledFrom([]string{"", "x", "y"})
		equal := func(md ipc.Metadata, want model) {
			t.Helper()
			var got model
			for _, f := range md {
				got = append(got, [2]string{f.Key, f.Value})
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				k, v := key.Draw(t, "key"), value.Draw(t, "value")
				md.Add(k, v)
				want = append(slices.Clone(want), [2]string{k, v})
			},
			"set": func(t *rapid.T) {
				k, v := key.Draw(t, "key"), value.Draw(t, "value")
				md.Set(k, v)
				want = append(slices.DeleteFunc(slices.Clone(want), func(f [2]string) bool { return f[0] == k }), [2]string{k, v})
			},
			"del": func(t *rapid.T) {
				k := key.Draw(t, "key")
				md.Del(k)
				want = slices.DeleteFunc(slices.Clone(want), func(f [2]string) bool { return f[0] == k })
			},
			"share": func(t *rapid.T) {
				other := md
				kept[&other] = slices.Clone(want)
				if rapid.Bool().Draw(t, "and change") {
					mine := md
					mine.Add("z", "z")
					mine.Set("a", "changed")
				}
			},
			"": func(t *rapid.T) {
				equal(md, want)
				for other, was := range kept {
					equal(*other, was)
				}
				k := key.Draw(t, "key")
				var values []string
				size := 0
				for _, f := range want {
					size += len(f[0]) + len(f[1]) + 32
					if f[0] == k {
						values = append(values, f[1])
					}
				}
				require.Equal(t, values, md.Values(k))
				require.Equal(t, size, md.Size())
				first, ok := md.Lookup(k)
				require.Equal(t, len(values) > 0, ok)
				if ok {
					require.Equal(t, values[0], first)
				}
				require.Equal(t, first, md.Get(k))
				require.NoError(t, md.Check())
			},
		})
	})
}

func TestMetadataCheck(t *testing.T) {
	for c := range 256 {
		err := ipc.Metadata{{Key: "k" + string([]byte{byte(c)})}}.Check()
		if allowed := strings.IndexByte("abcdefghijklmnopqrstuvwxyz0123456789-_.", byte(c)) >= 0; allowed {
			require.NoError(t, err)
		} else {
			require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err), "%q", c)
		}
	}
	require.NoError(t, ipc.Pairs(strings.Repeat("k", 255), "").Check())
	require.ErrorContains(t, ipc.Pairs(strings.Repeat("k", 256), "").Check(), "256 bytes")
	require.ErrorContains(t, ipc.Pairs("", "v").Check(), "is empty")
	require.NoError(t, ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-33)).Check())
	err := ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-32)).Check()
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	require.Panics(t, func() { ipc.Pairs(strings.Fields("a b c")...) })
}

// A handler's function runs in a test as in a handler.
func TestNewIncomingContext(t *testing.T) {
	peer := ipc.Peer{PID: 7, UID: 8, Driver: "none"}
	ctx, answer := ipc.NewIncomingContext(t.Context(), ipc.Pairs("a", "b"), peer)
	require.Equal(t, "b", ipc.MetadataOf(ctx).Get("a"))
	got, ok := ipc.PeerOf(ctx)
	require.True(t, ok)
	require.Equal(t, peer, got)
	require.NoError(t, ipc.SetHeader(ctx, "h", "1"))
	require.NoError(t, ipc.SetHeader(ctx, "h", "2"))
	require.NoError(t, ipc.SetTrailer(ctx, "t", "3"))
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(ipc.SetTrailer(ctx, "T", "3")))
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(ipc.SetHeader(ctx, "h", strings.Repeat("v", ipc.MaxMetadata-80))))
	require.Equal(t, ipc.Pairs("h", "1", "h", "2"), answer.Header())
	require.Equal(t, ipc.Pairs("t", "3"), answer.Trailer())
}

//go:build unix

package processor_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/stretchr/testify/require"
)

// What a worker does to a message is there afterwards; what it leaves alone is as it was, types included.
func TestContentAndMetadata(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		s := start(t, 1, tandem(driver, "metadata: {exclude_prefixes: [secret]}"))
		at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		meta := map[string]any{
			"text": "a", "number": int64(-7), "part": 0.5, "flag": true, "bytes": []byte{0, 255}, "time": at,
			"json": json.Number("12"), "list": []any{int64(1), "b"}, "map": map[string]any{"in": map[string]any{"x": int64(1)}}, "secret": "s",
		}
		m := message("one", "old", "gone")
		for key, v := range meta {
			m.MetaSetMut(key, v)
		}
		got := s.through(m, message(""), message("three"))
		require.Len(t, got, 3)
		require.Equal(t, "ONE", content(t, got[0]))
		require.Empty(t, content(t, got[1]))
		require.Equal(t, "THREE", content(t, got[2]))
		for key, want := range meta {
			v, ok := got[0].MetaGetMut(key)
			require.True(t, ok, key)
			require.Equal(t, want, v, key)
		}
		types := map[string]string{
			"text": "string", "number": "int64", "part": "float64", "flag": "bool", "bytes": "[]uint8", "time": "time.Time",
			"json": "int64", "list": "[]interface {}", "map": "map[string]interface {}", "old": "string",
		}
		for key, want := range types { // as the worker has seen them
			v, _ := got[0].MetaGetMut("type of " + key)
			require.Equal(t, want, v, key)
		}
		_, ok := got[0].MetaGetMut("type of secret")
		require.False(t, ok, "was sent though it is excluded")
		_, ok = got[0].MetaGetMut("old")
		require.False(t, ok, "was deleted")
		for _, m := range got {
			require.NoError(t, m.GetError())
			require.Positive(t, pid(t, m))
		}
	})
}

// Structured messages arrive as JSON.
func TestStructured(t *testing.T) {
	s := start(t, 1, `mapping: 'root.name = content().string()'`, tandem("socket", ""))
	got := s.through(message("x"))
	require.Len(t, got, 1)
	require.Equal(t, `{"NAME":"X"}`, content(t, got[0]))
}

// An error concerns its own message, which is otherwise as it was.
func TestErrorsOfMessages(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		s := start(t, 1, tandem(driver, ""))
		got := s.through(message("a"), message("b", "do", "fail"), message("c", "do", "drop"), message("d", "do", "panic"),
			message("e", "do", "mark"), message("f"))
		require.Len(t, got, 5)
		for i, want := range []struct{ content, err string }{
			{"A", ""}, {"b", "it is bad"}, {"d", "panic: it panics"}, {"E", "it is marked"}, {"F", ""},
		} {
			require.Equal(t, want.content, content(t, got[i]))
			if want.err == "" {
				require.NoError(t, got[i].GetError())
			} else {
				require.ErrorContains(t, got[i].GetError(), want.err)
			}
		}
		_, ok := got[1].MetaGetMut("nor")
		require.False(t, ok, "metadata of a message that has failed")
		require.Empty(t, s.through(message("x", "do", "drop"), message("y", "do", "drop")), "and it is acknowledged")
	})
}

// The engine's own processors handle errors of workers, and workers those of the engine.
func TestEngineHandlesErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		s := start(t, 1,
			`try: [{`+tandem(driver, "")+`}, {mapping: 'root = content() + " tried"'}]`,
			`catch: [{mapping: 'root = "caught " + content() + ": " + error()'}]`)
		got := s.through(message("a"), message("b", "do", "fail"))
		require.Len(t, got, 2)
		require.Equal(t, "A tried", content(t, got[0]))
		require.Equal(t, "caught b: unknown: it is bad", content(t, got[1]))
		require.NoError(t, got[1].GetError())

		s = start(t, 1, `mapping: 'root = throw("the engine says no")'`, tandem(driver, ""))
		got = s.through(message("a", "do", "forgive"), message("b"))
		require.Len(t, got, 2)
		require.NoError(t, got[0].GetError())
		why, _ := got[0].MetaGet("why")
		require.Contains(t, why, "the engine says no")
		require.ErrorContains(t, got[1].GetError(), "the engine says no")
	})
}

// A handler of batches changes their order and their size.
func TestBatches(t *testing.T) {
	s := start(t, 1, `tandem: {self: test, method: reverse, driver: socket}`)
	got := s.through(message("a", "n", int64(1)), message("b", "n", int64(2)))
	require.Len(t, got, 4)
	for i, want := range []string{"b", "b again", "a", "a again"} {
		require.Equal(t, want, content(t, got[i]))
		n, _ := got[i].MetaGetMut("n")
		require.EqualValues(t, 2-i/2, n)
		_, copied := got[i].MetaGetMut("copy")
		require.Equal(t, i%2 == 1, copied)
	}
}

// A call that fails, or whose answer makes no sense, marks all messages, and changes none.
func TestErrorsOfBatches(t *testing.T) {
	for method, why := range map[string]string{
		"fail": "the batch is bad", "beyond": "returns message 2 of a batch of 2", "negative": "returns message -1 of", "nobody": "unimplemented",
	} {
		t.Run(method, func(t *testing.T) {
			s := start(t, 1, `tandem: {self: test, driver: socket, method: `+method+`}`)
			got := s.through(message("a"), message("b"))
			require.Len(t, got, 2)
			for i, m := range got {
				require.ErrorContains(t, m.GetError(), why)
				require.Equal(t, []string{"a", "b"}[i], content(t, m))
			}
		})
	}
}

// A batch is acknowledged when the output has taken it, and not if it has refused it.
func TestAcknowledged(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		full := errors.New("the output is full")
		took := make(chan service.MessageBatch)
		answer := make(chan error)
		s := startWith(t, &stream{taken: func(b service.MessageBatch) error {
			took <- b
			return <-answer
		}}, "", 1, tandem(driver, ""))
		for _, want := range []error{full, nil} {
			acked := make(chan error, 1)
			go func() { acked <- s.send(t.Context(), service.MessageBatch{message("a"), message("b")}) }()
			b := <-took
			require.Equal(t, "B", content(t, b[1]))
			select {
			case err := <-acked:
				t.Fatalf("acknowledged before the output has taken it: %v", err)
			default:
			}
			answer <- want
			if err := <-acked; want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, want.Error())
			}
		}
	})
}

// The context of a sender that leaves does not end the stream.
func TestSenderLeaves(t *testing.T) {
	s := new(stream)
	s.early = func() { // what the stream has taken already is handled, whatever becomes of its sender
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.send(ctx, service.MessageBatch{message("a")}), context.Canceled)
	}
	startWith(t, s, "", 1, tandem("socket", "timeout: 200ms, attempts: 1"))
	got := s.through(message("b", "do", "hang /nonexistent"))
	require.ErrorIs(t, got[len(got)-1].GetError(), context.DeadlineExceeded)
	c := func() string {
		got := s.through(message("c"))
		return content(t, got[len(got)-1])
	}
	for began := time.Now(); c() != "C"; { // a slow worker may need more than 200 ms
		require.Less(t, time.Since(began), time.Minute)
	}
}

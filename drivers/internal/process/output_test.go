package process

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseRecord(t *testing.T) {
	now := time.Now()
	for _, text := range []string{
		"plain", "{", "{}", `{"level":"INFO"}`, `{"msg":"m"}`, `{"level":"INFO","msg":3}`, `{"level":3,"msg":"m"}`,
		`{"level":"INFO","msg":"m"} {}`, `{"level":"INFO","msg":"m"`, `{"level":"INFO" "msg":"m"}`, `{"level":"INFO","msg":"m","n":1e999}`,
		strings.Repeat(`{"a":`, 10_000), strings.Repeat(`{"a":[`, 10_000),
	} {
		_, _, _, _, ok := parseRecord(line{text: text, at: now})
		require.False(t, ok, text)
	}
	at, level, message, attrs, ok := parseRecord(line{text: `{"msg":"m","level":"WARN+2","level":"x","time":"yesterday","big":18446744073709551615,"msg":"n"}`, at: now})
	require.True(t, ok)
	require.Equal(t, now, at, "its time is none")
	require.Equal(t, slog.LevelWarn+2, level)
	require.Equal(t, "m", message)
	require.Equal(t, `[level=x time=yesterday big=1.8446744073709552e+19 msg=n]`, slog.GroupValue(attrs...).String())

	at, _, _, _, ok = parseRecord(line{text: `{"time":"2024-05-06T07:08:09.5Z","level":"INFO","msg":""}`, at: now})
	require.True(t, ok)
	require.True(t, at.Equal(time.Date(2024, 5, 6, 7, 8, 9, 5e8, time.UTC)))
}

package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// A message goes through a server that a test has started.
func TestStart(t *testing.T) {
	nc := Connect(t, Start(t, nil))
	_, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	require.NoError(t, err)
	answer, err := nc.Request("echo", []byte("x"), time.Minute)
	require.NoError(t, err)
	require.Equal(t, "x", string(answer.Data))
}

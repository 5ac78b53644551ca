package retry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

func TestAgain(t *testing.T) {
	gone := fmt.Errorf("%w: killed", ipc.ErrPeerGone)
	refused := func(details map[string]string) error {
		return ipc.ParseError(ipc.AppendError(nil, &ipc.Error{Code: ipc.CodeUnavailable, Details: details}))
	}
	for name, c := range map[string]struct {
		err      error
		attempts int
		again    bool
		left     int
	}{
		"gone":           {gone, 2, true, 1},
		"gone, the last": {gone, 1, false, 0},
		"not sent":       {NotSent(gone), 1, true, 1},
		"closed":         {fmt.Errorf("%w: %w", ipc.ErrClosed, gone), 5, false, 5},
		"draining":       {refused(map[string]string{DetailDraining: "1"}), 1, true, 1},
		"refused":        {refused(nil), 5, false, 5},
		"ours":           {&ipc.Error{Details: map[string]string{DetailDraining: "1"}}, 5, false, 5},
		"other":          {NotSent(errors.New("other")), 5, false, 5},
	} {
		attempts := c.attempts
		require.Equal(t, c.again, Again(c.err, &attempts), name)
		require.Equal(t, c.left, attempts, name)
	}
}

func TestAttempts(t *testing.T) {
	for _, c := range []struct {
		inv      ipc.Invocation
		attempts int
		all      bool
		want     int
	}{
		{ipc.Invocation{}, 5, false, 1},
		{ipc.Invocation{Attempts: 3}, 5, false, 1},
		{ipc.Invocation{}, 5, true, 5},
		{ipc.Invocation{Idempotent: true}, 5, false, 5},
		{ipc.Invocation{Idempotent: true, Attempts: 3}, 5, false, 3},
		{ipc.Invocation{Idempotent: true}, 0, false, 1},
	} {
		require.Equal(t, c.want, Attempts(&c.inv, c.attempts, c.all), "%+v", c)
	}
}

func TestNotice(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	plain, idempotent := &ipc.Invocation{Method: ipc.MethodInfo{Name: "charge"}}, &ipc.Invocation{Idempotent: true}
	var n Notice
	n.Give(log, ipc.ErrPeerGone, plain, 1, false)
	n.Give(log, ipc.ErrPeerGone, plain, 3, true)
	n.Give(log, ipc.ErrPeerGone, idempotent, 3, false)
	n.Give(log, ipc.ErrClosed, plain, 3, false)
	n.Give(log, errors.New("other"), plain, 3, false)
	require.Empty(t, b.String())
	for range 3 {
		n.Give(log, ipc.ErrPeerGone, plain, 3, false)
	}
	require.Equal(t, 1, strings.Count(b.String(), "charge"))
}

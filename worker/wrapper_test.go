//go:build linux

package worker_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A wrapper that closes or uses the numbers of what the worker inherits is found out:
// the worker takes nobody else's file for its own.
func TestWrapperThatUsesDescriptors(t *testing.T) {
	program := link(t, testProgram)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for wrapper, want := range map[string]string{
			"exec 3>&-":         "descriptor 3, the control socket, is ", // Go's runtime may use the number
			"exec 3</dev/null":  "descriptor 3, the control socket, is a device here",
			"exec 3<" + program: "descriptor 3, the control socket, is a regular file here",
			"exec 3<&4":         "descriptor 3, the control socket, is a pipe here",
			"exec 4>&-":         "descriptor 4, the host-alive pipe, is ",
			"exec 4</":          "descriptor 4, the host-alive pipe, is a directory here",
			"exec 4<&3":         "descriptor 4, the host-alive pipe, is a socket here",
		} {
			_, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", wrapper+`; exec "$0"`, program))
			require.ErrorContains(t, err, want, wrapper)
		}
		// One of the same kind is another one all the same.
		_, err := s.spawn(t.Context(), exec.Command("/bin/bash", "-c", `exec 4< <(echo data); exec "$0"`, program))
		require.ErrorContains(t, err, "descriptor 4, the host-alive pipe, is another pipe here")
		var refused *ipc.RefusedError
		require.ErrorAs(t, err, &refused, "the control socket is there to say so")

		if s.name == "socket" { // it passes one more
			for wrapper, want := range map[string]string{
				"exec 5>&-":        "descriptor 5, which driver socket has passed, is ",
				"exec 5</dev/null": "descriptor 5, which driver socket has passed, is a device here",
				"exec 5<&3":        "descriptor 5, which driver socket has passed, is a socket here",
			} {
				_, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", wrapper+`; exec "$0"`, program))
				require.ErrorContains(t, err, want, wrapper)
				require.ErrorAs(t, err, &refused)
			}
		}
		_, err = s.spawn(t.Context(), exec.Command("/bin/sh", "-c", `exec "$0" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-`, program))
		require.ErrorContains(t, err, "descriptor 3, the control socket, is ")

		// What is left alone serves.
		w, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", `exec 9</dev/null; exec "$0"`, program))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	})
	// An entry of Self does not go on as a host would.
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := worker.Self("test")
	_, err = worker.Start(t.Context(), exec.Command("/bin/bash", "-c", `exec 4>&-; exec -a "$1" "$0"`, self, cmd.Args[0]))
	require.ErrorContains(t, err, "the host-alive pipe, is ")
}

// Wrappers that start the worker in their place, or wait for it, may change much.
func TestWrappers(t *testing.T) {
	program := link(t, testProgram)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, script := range []string{
			`cd /; exec "$0"`,
			`exec "$0" 0<&- 1>&- 2>&-`,
			`exec "$0" 7</dev/null 8</dev/null 9</dev/null`,
			`umask 777; ulimit -c 0; exec "$0"`,
			`trap '' PIPE TERM HUP INT CHLD; exec "$0"`,
			`"$0" & wait $!`,
			`"$0"; exit $?`,
			`exec setsid -w "$0"`,
			`exec nohup "$0"`,
			`exec env -u HOME -u PATH "$0"`,
		} {
			w, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", script, program))
			require.NoError(t, err, script)
			require.NoError(t, callAdd(w, 1), script)
			require.NoError(t, w.Close(), script)
		}
		_, err := s.spawn(t.Context(), exec.Command("/usr/bin/env", "-i", program))
		require.ErrorContains(t, err, "tandem: this process was not started by a host: there is no TANDEM_STARTUP in its environment")
	})
}

// A wrapper that ends before the worker has taken the host's hold of the worker along: to
// the host the worker has ended, and so it does.
func TestWrapperThatEndsFirst(t *testing.T) {
	program := link(t, testProgram)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		dir := t.TempDir()
		go1, pidFile := filepath.Join(dir, "go"), filepath.Join(dir, "pid")
		ends := func(pid int) {
			eventually(t, "the worker has ended, too", func() bool { return gone(pid) || state(pid) == "Z" })
		}
		// At once: no worker says hello in time.
		_, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", `{ while ! [ -e "$2" ]; do sleep 0.01; done; exec "$0"; } & echo $! >"$1"`, program, pidFile, go1))
		require.ErrorContains(t, err, "a wrapper that starts the worker as another process has to last as long as that")
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.Zero(t, exit.Code)
		b, err := os.ReadFile(pidFile)
		require.NoError(t, err)
		child, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(go1, nil, 0o600))
		ends(child) // it finds its host's end of the link closed

		// Later: the worker is told that its host has gone.
		go2 := filepath.Join(dir, "go 2")
		w, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", `"$0" & while ! [ -e "$1" ]; do sleep 0.01; done`, program, go2))
		require.NoError(t, err)
		said, err := pid.Call(t.Context(), w, 0)
		require.NoError(t, err)
		require.NotEqual(t, w.PID(), said.PID)
		pending := make(chan error, 1)
		go func() {
			_, err := block.Call(context.Background(), w, "x")
			pending <- err
		}()
		eventually(t, "in the handler", func() bool { return count(t, w, "x.begin") == 1 })
		require.NoError(t, os.WriteFile(go2, nil, 0o600))
		require.ErrorAs(t, <-pending, &exit)
		require.Zero(t, exit.Code)
		ends(said.PID)
		require.NoError(t, w.Close())
	})
}

//go:build linux

package worker_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A wrapper that closes or uses the numbers of what the worker inherits is found out:
// the worker takes nobody else's file for its own.
func TestWrapperThatUsesDescriptors(t *testing.T) {
	program := filepath.Join(t.TempDir(), testProgram)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, program))
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

		// What is left alone serves.
		w, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", `exec 9</dev/null; exec "$0"`, program))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	})
	// An entry of Self does not go on as a host would.
	cmd := worker.Self("test")
	_, err = worker.Start(t.Context(), exec.Command("/bin/bash", "-c", `exec 4>&-; exec -a "$1" "$0"`, self, cmd.Args[0]))
	require.ErrorContains(t, err, "the host-alive pipe, is ")
}

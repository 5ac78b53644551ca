package examples

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestService(t *testing.T) {
	dir := t.TempDir()
	server, client := build(t, dir, "server", "./service/server"), build(t, dir, "client", "./service/client")
	path := filepath.Join(dir, "text")
	out, status := run(t, client, path, "nobody listens")
	assert.Contains(t, out, "nobody listens there")
	assert.Equal(t, 1, status)

	cmd := exec.Command(server, path)
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	line, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(line, "listening at "+path+"\n"), line)
	for range 3 {
		out, status = run(t, client, path, "to be or not to be")
		assert.Equal(t, "6 words\n", out)
		assert.Equal(t, 0, status)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	out, status = run(t, client, path, "nobody listens any more")
	assert.Contains(t, out, "nobody listens there")
	assert.Equal(t, 1, status)
}

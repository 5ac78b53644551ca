package process

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// starterRuns reports whether a starter's goroutine is there.
func starterRuns() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "process.(*starter).run")
}

// users is how many use the starter.
func users() int {
	starters.Lock()
	defer starters.Unlock()
	if s := starters.of[""]; s != nil {
		return s.users
	}
	return 0
}

func awaitNoStarter(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); starterRuns(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "the starter runs though nobody needs it")
	}
}

// The starter runs while there is a child whose parent-death signal hangs on its thread.
func TestStarterEndsWithTheLastChild(t *testing.T) {
	awaitNoStarter(t)
	first, _ := spawn(t, &exec.Cmd{}, Options{}, "t")
	second, _ := spawn(t, &exec.Cmd{}, Options{}, "t")
	require.Equal(t, 2, users())
	first.Kill()
	require.Equal(t, 1, users())
	require.True(t, starterRuns())
	second.Kill()
	require.Zero(t, users())
	awaitNoStarter(t)

	// A start that fails uses it for the start alone.
	_, _, err := startOS(&exec.Cmd{Path: "/nowhere"}, false, 0)
	require.Error(t, err)
	require.Zero(t, users())
	awaitNoStarter(t)

	// A detached worker outlives its host, so nothing hangs on the thread.
	detached, conn := spawn(t, &exec.Cmd{}, Options{Detached: true}, "t")
	require.Zero(t, users())
	awaitNoStarter(t)
	conn.Close()
	<-detached.Done()
	require.Zero(t, detached.Exit().Code)
}

// A child outlives the thread that has asked for its start, and starters that have ended.
func TestChildOutlivesThreads(t *testing.T) {
	start := func() (p *Process, tid int) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread() // and the thread ends with this goroutine
			tid = unix.Gettid()
			p, _ = spawn(t, &exec.Cmd{}, Options{}, "t")
		}()
		<-ended
		return p, tid
	}
	before, _ := start()
	before.Kill()
	awaitNoStarter(t)
	long, tid := start()
	if tid != os.Getpid() { // the first thread stays, whatever ends
		for end := time.Now().Add(30 * time.Second); unix.Tgkill(os.Getpid(), tid, 0) == nil; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(end), "the thread lives")
		}
	}
	for range 10 {
		short, _ := start()
		short.Kill()
	}
	require.True(t, starterRuns())
	require.Nil(t, long.Exit())
	require.NoError(t, long.Signal(unix.Signal(0)))
	// SIGTERM would have ended it by now if a thread had taken it along: it still reads.
	long.Kill()
	require.Equal(t, unix.SIGKILL, long.Exit().Signal, "nothing else has ended it")
	awaitNoStarter(t)
}

//go:build linux

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashes are ways in which a program in Go ends with more on stderr than is kept.
var crashes = map[byte]struct {
	want  []string
	crash func()
}{
	'1': {[]string{"panic: out of cheese", "process.deep"}, func() { deep(200, func() { panic("out of cheese") }) }},
	'2': {[]string{"panic: runtime error: invalid memory address", "[signal SIGSEGV"}, func() { deep(200, func() { *(*int)(nil)++ }) }},
	'3': {[]string{"fatal error: stack overflow"}, func() { debug.SetMaxStack(1 << 20); deep(1<<30, nil) }},
	'4': {[]string{"panic: with many goroutines", "goroutine "}, func() {
		debug.SetTraceback("all")
		for range 300 {
			go time.Sleep(time.Hour)
		}
		panic("with many goroutines")
	}},
	'5': {[]string{"SIGQUIT: quit"}, func() {
		for range 300 {
			go time.Sleep(time.Hour)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
		time.Sleep(time.Hour)
	}},
	'6': {[]string{"fatal error: all goroutines are asleep", "out of patience"}, func() {
		fmt.Fprintln(os.Stderr, strings.Repeat("a log of what was before\n", 1000)+"fatal error: all goroutines are asleep\n"+
			strings.Repeat("goroutine\n", 10_000)+"out of patience")
		os.Exit(2)
	}},
}

//go:noinline
func deep(n int, then func()) int {
	if n == 0 {
		then()
		return 0
	}
	return deep(n-1, then) + 1
}

// What a crash is about is said first, and stays however long its traceback is.
func TestStderrOfACrash(t *testing.T) {
	for word, c := range crashes {
		p, _ := spawn(t, &exec.Cmd{Stderr: io.Discard}, Options{}, string(word))
		<-p.Done()
		said := p.Exit().Stderr
		for _, want := range c.want {
			require.Contains(t, said, want)
		}
		require.LessOrEqual(t, len(said), headSize+tailSize+100)
		require.Contains(t, said, "left out", "it was longer than what is kept")
	}
}

func TestStderrTail(t *testing.T) {
	const crash = "fatal error: "
	kept := func(pieces ...string) string {
		tail := new(stderrTail)
		for _, p := range pieces {
			tail.add([]byte(p))
		}
		return tail.String()
	}
	long := strings.Repeat("y\n", tailSize)
	require.Empty(t, kept())
	require.Equal(t, "panic: a\nb", kept("panic: a\nb"))
	require.Equal(t, "..."+long[:tailSize], kept(long))

	// In whatever pieces it comes.
	text := "before\n" + crash + "x\n" + long
	want := "..." + (crash + "x\n" + long)[:headSize] + fmt.Sprintf("\n... %d bytes are left out ...\n", len(text)-len("before\n")-headSize-tailSize) + long[:tailSize]
	require.Equal(t, want, kept(text))
	require.Equal(t, want, kept(strings.Split(text, "")...))

	// With no gap there is no mark of one.
	text = crash + long[:tailSize+headSize/2]
	require.Equal(t, text, kept(text))

	// The last crash counts, and what belongs to one does not count as another.
	require.Contains(t, kept("panic: 1\n", long, "panic: 2\npanic: 3\n", long), "...panic: 2\npanic: 3\ny")
	require.Equal(t, "..."+("mypanic: 1\n" + long)[11+len(long)-tailSize:], kept("mypanic: 1\n", long), "not at the beginning of a line")

	// A note of the runtime that comes just before is kept with it, and one from long before is not.
	note := "runtime/cgo: pthread_create failed: Resource temporarily unavailable\n"
	require.Contains(t, kept("before\n", note, "SIGABRT: abort\n", long), "..."+note+"SIGABRT: abort\ny")
	require.Contains(t, kept(note, strings.Repeat("z\n", noteSize/2), "panic: 1\n", long), "...panic: 1\ny")
	require.Contains(t, kept(note, "and so on\n", note, "panic: 1\n", long), note+"and so on\n"+note+"panic: 1\ny")

	require.Contains(t, kept("panic: 1\n", long, note, "goroutine 2\n", long), "panic: 1\ny", "a note does not begin another one")

	// What a crash with a note has in its traceback takes the place of neither.
	traceback := strings.Repeat("z\n", noteSize)
	for _, mark := range []string{"runtime: g 1: unexpected return pc\n", "fatal error: another\n", note} {
		require.Contains(t, kept("before\n", note, "SIGABRT: abort\n", traceback, mark, long), "..."+note+"SIGABRT: abort\nz", mark)
		require.Contains(t, kept("before\n", "runtime: out of memory\n", "fatal error: out of memory\n", traceback, mark, long), "...runtime: out of memory\nfatal error: out of memory\nz", mark)
	}

	for text, is := range map[string]bool{"SIGSEGV: x": true, "SIGSEGV": false, "SIGNAL x: ": false, "SIG: x": false, "panic(": false, "panic: x": true, "runtime: x": false} {
		crash, _ := begins([]byte(text))
		require.Equal(t, is, crash, text)
	}
	for text, is := range map[string]bool{"runtime: failed to create new OS thread": true, "runtime/cgo: x": true, "runtime": false, "runtime.main()": false, "my runtime: x": false} {
		_, note := begins([]byte(text))
		require.Equal(t, is, note, text)
	}
}

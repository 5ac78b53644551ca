//go:build unix

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"sync/atomic"
	"time"
)

// stdio is what a worker has as stdin, stdout and stderr. Where its command has a
// reader or writer that is no file, stdio copies, as os/exec does. It does so itself
// because os/exec tells the end of a process only when the copying has ended, and the
// user's readers and writers may block.
type stdio struct {
	// What the process inherits: files, or nil for the null device.
	stdin          io.Reader
	stdout, stderr io.Writer

	theirs  []*os.File // the ends of pipes that the process inherits
	copies  []copying  // with outputs among them
	outputs []*stream
	left    atomic.Int32  // copies that have not ended
	ended   chan struct{} // closed when all have
	letGo   chan struct{} // closed when they are to end
}

// copying is one direction of one pipe.
type copying interface {
	// run copies until either end has ended, or letGo is closed. Then it calls free.
	run(letGo <-chan struct{})
	// close closes our end of the pipe.
	close()
	// free lets go of the user's reader or writer.
	free()
}

// newStdio makes the pipes that cmd needs. tail keeps what the worker says last on
// stderr. A detached worker gets files only, for a pipe to a host that has gone
// would break.
func newStdio(cmd *exec.Cmd, detached bool, tail *stderrTail) (*stdio, error) {
	s := &stdio{ended: make(chan struct{}), letGo: make(chan struct{})}
	if detached {
		s.stdin, s.stdout, s.stderr = onlyFile(cmd.Stdin), onlyFile(cmd.Stdout), onlyFile(cmd.Stderr)
		return s, nil
	}
	err := s.pipes(cmd, tail)
	if err != nil {
		s.abandon()
		return nil, fmt.Errorf("tandem: pipe for the worker's stdio: %w", err)
	}
	return s, nil
}

func (s *stdio) pipes(cmd *exec.Cmd, tail *stderrTail) (err error) {
	s.stdin, s.stdout = onlyFile(cmd.Stdin), onlyFile(cmd.Stdout)
	if s.stdin == nil && cmd.Stdin != nil {
		if s.stdin, err = s.input(cmd.Stdin); err != nil {
			return err
		}
	}
	if s.stderr, err = s.output(cmd.Stderr, tail); err != nil {
		return err
	}
	switch {
	case s.stdout != nil || cmd.Stdout == nil:
	case sameWriter(cmd.Stdout, cmd.Stderr):
		s.stdout = s.stderr // one pipe, so that all stays in order
	default:
		s.stdout, err = s.output(cmd.Stdout, nil)
	}
	return err
}

// onlyFile returns v if it is a file, which a process can inherit, and nil if not.
func onlyFile[T any](v T) T {
	if _, ok := any(v).(*os.File); ok {
		return v
	}
	var none T
	return none
}

// sameWriter reports whether two writers are one, of a type that can be compared.
func sameWriter(a, b any) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// run starts to copy, when the process has been started.
func (s *stdio) run() {
	s.closeTheirs()
	if len(s.copies) == 0 {
		close(s.ended)
		return
	}
	s.left.Store(int32(len(s.copies)))
	for _, c := range s.copies {
		go func() {
			c.run(s.letGo)
			if s.left.Add(-1) == 0 {
				close(s.ended)
			}
		}()
	}
}

// abandon is called instead of run when the process has not been started.
func (s *stdio) abandon() {
	s.closeTheirs()
	for _, c := range s.copies {
		c.close()
		c.free()
	}
}

func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// empty takes what the process had written out of the pipes, so that the tail of
// stderr is complete. It is called when the process has ended.
func (s *stdio) empty() {
	for _, o := range s.outputs {
		o.empty()
	}
}

// settle waits until all is copied, for d at most, and then lets go of the copies. A
// descendant may hold a pipe open, and the user's reader or writer may block; only in
// the latter case does a goroutine stay, until the reader or writer returns.
func (s *stdio) settle(d time.Duration) {
	over, stop := After(d)
	select {
	case <-s.ended:
	case <-over:
	}
	stop()
	close(s.letGo)
	for _, c := range s.copies {
		c.close()
	}
}

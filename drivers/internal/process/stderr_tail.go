package process

import (
	"bytes"
	"fmt"
	"regexp"
	"sync"
)

const (
	// tailSize is how much of the end of stderr is kept for errors, in bytes.
	tailSize = 4 << 10
	// headSize is how much is kept of the beginning of a crash, in bytes.
	headSize = 2 << 10
	// noteSize is how close to a note of the runtime a crash has to come for the two to belong together, in bytes.
	noteSize = headSize / 4
	// markSize is how much of a line shows whether it begins a crash, in bytes.
	markSize = 16
)

var (
	// crashMark is how the runtime of Go begins to report a crash.
	crashMark = regexp.MustCompile(`^(panic: |fatal error: |SIG[A-Z]+: )`)
	// noteMark is how it says, before some crashes, what it is short of. A program may go on after other notes.
	noteMark = regexp.MustCompile(`^runtime(/cgo)?: `)
)

// begins reports whether a crash, or a note before it, begins with this line, or beginning of one.
func begins(line []byte) (crash, note bool) { return crashMark.Match(line), noteMark.Match(line) }

// stderrTail keeps the last bytes of a worker's stderr. It also keeps the
// beginning of the last crash, which says what the crash is about: the traceback
// that follows may be longer than the tail.
type stderrTail struct {
	mu      sync.Mutex // guards the following
	total   int64      // bytes so far
	tail    []byte     // the last ones
	line    []byte     // the first bytes of the present line, up to markSize
	crashed bool       // head holds something
	noted   bool       // which is a note, and no crash has followed yet
	head    []byte     // the first bytes of the last crash, up to headSize
	at      int64      // where head begins in the stream
}

// add adds what was read.
func (t *stderrTail) add(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for part := range bytes.Lines(b) {
		t.look(part)
		t.total += int64(len(part))
	}
	t.tail = append(t.tail, b...)
	if over := len(t.tail) - tailSize; over > 0 {
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
}

// look adds part, which is of one line, to the head if it belongs there.
func (t *stderrTail) look(part []byte) {
	if known := len(t.line); known < markSize {
		t.line = append(t.line, part[:min(len(part), markSize-known)]...)
		begin := t.total - int64(known)
		crash, note := begins(t.line)
		reach := int64(headSize) // of what head has begun with
		if t.noted {
			reach = noteSize
		}
		switch {
		case !t.crashed && (crash || note), begin >= t.at+reach && (crash || note && t.noted): // tracebacks have notes, too
			t.crashed, t.noted, t.at = true, note, begin
			t.head = append(t.head[:0], t.line[:known]...)
		case crash:
			t.noted = false // this is what the note belongs to
		}
	}
	if t.crashed {
		t.head = append(t.head, part[:min(len(part), headSize-len(t.head))]...)
	}
	if part[len(part)-1] == '\n' {
		t.line = t.line[:0]
	}
}

// String returns the beginning of the last crash, if there is one, and the last
// bytes. It marks what is left out before and between them.
func (t *stderrTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, head, between := t.total-int64(len(t.tail)), []byte(nil), ""
	if t.crashed && t.at < at {
		head = t.head[:min(int64(len(t.head)), at-t.at)]
		if gap := at - t.at - int64(len(head)); gap > 0 {
			between = fmt.Sprintf("\n... %d bytes are left out ...\n", gap)
		}
		at = t.at
	}
	before := ""
	if at > 0 {
		before = "..."
	}
	return before + string(head) + between + string(t.tail)
}

package drivertest

import (
	"bytes"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// receive returns the next frame of a link and waits for it, the way a reader
// should: poll, spin while that pays, then arm, look again and sleep. The
// caller holds the reader role. The payload is valid until the next receive,
// and what arrived before an error is returned before it.
func receive(l drivers.Link) (drivers.Frame, error) {
	for {
		f, ok, err := look(l)
		if ok || err != nil {
			return f, err
		}
		if l.Spin() {
			continue
		}
		l.Arm()
		// What was sent before Arm does not wake us, hence the look after it.
		if !l.Ready() {
			l.Sleep(l.Ready)
		}
		l.Disarm()
	}
}

// look returns what Next puts into a frame.
func look(l drivers.Link) (f drivers.Frame, ok bool, err error) {
	ok, err = l.Next(&f)
	return f, ok, err
}

// receiveAll hands every frame to fn until the link ends, and returns why it ended.
func receiveAll(l drivers.Link, fn func(drivers.Frame)) error {
	for {
		f, err := receive(l)
		if err != nil {
			return err
		}
		fn(f)
	}
}

var goroutineHeader = regexp.MustCompile(`^goroutine \d+(?: gp=\S+ m=\S+(?: mp=\S+)?)? \[([a-zA-Z ().]+)`)

// parked reports whether n goroutines or more that have function in their
// stacks wait for something.
func parked(function string, n int) bool {
	for _, g := range bytes.Split(stacks(), []byte("\n\n")) {
		if !bytes.Contains(g, []byte("."+function+"(")) {
			continue
		}
		m := goroutineHeader.FindSubmatch(g)
		if m == nil {
			continue
		}
		if state := string(m[1]); !strings.HasPrefix(state, "runn") {
			n--
		}
	}
	return n <= 0
}

// stacks returns the stacks of all goroutines.
func stacks() []byte {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return buf[:n]
		}
	}
}

// awaitParked returns when n goroutines wait inside function. This is how the
// suite knows that a call blocks without guessing how long that takes.
func awaitParked(function string, n int) {
	for pause := 50 * time.Microsecond; !parked(function, n); pause = min(2*pause, 20*time.Millisecond) {
		time.Sleep(pause)
	}
}

// await returns when condition holds. The watchdog bounds it.
func await(condition func() bool) {
	for pause := 50 * time.Microsecond; !condition(); pause = min(2*pause, 20*time.Millisecond) {
		time.Sleep(pause)
	}
}

package gather

import (
	"context"
	"encoding/binary"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ring"
)

// helpers are what the test binary does when a test starts it again as another process.
var helpers = map[string]func(){}

const helperEnv = "TANDEM_GATHER_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name]()
		os.Exit(0)
	}
	os.Exit(leaktest.VerifyNoLeaks(m.Run))
}

// watchdog ends the process, with all stacks, if the test hangs.
func watchdog(t *testing.T) context.Context {
	timer := time.AfterFunc(2*time.Minute, func() {
		buf := make([]byte, 1<<20)
		panic("hangs:\n" + string(buf[:runtime.Stack(buf, true)]))
	})
	t.Cleanup(func() { timer.Stop() })
	return context.Background()
}

// scaled is n, or less where the race detector makes everything slow.
func scaled(n int) int {
	if raceEnabled || testing.Short() {
		return n / 10
	}
	return n
}

// tester is a *testing.T, *testing.B or *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// segments returns two segments on the heap: of a producer, and of the consumer of its ring.
func segments(t tester, ringSize int) (producer, consumer []byte) {
	t.Helper()
	for _, s := range []struct {
		seg  *[]byte
		size int
	}{{&producer, ringSize}, {&consumer, ring.MinSize}} {
		n, err := ring.SegmentSize(s.size)
		if err == nil {
			*s.seg = make([]byte, n)
			err = ring.Format(*s.seg, 0)
		}
		if err != nil {
			t.Fatalf("make a segment: %v", err)
		}
	}
	return producer, consumer
}

// pair returns a producer and the consumer of its ring, on heap memory.
func pair(t tester, ringSize int) (*ring.Producer, *ring.Consumer) {
	t.Helper()
	a, b := segments(t, ringSize)
	p, _, err := ring.Join(a, b)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	_, c, err := ring.Join(b, a)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	return p, c
}

// number is a record's payload: a number, and bytes that follow from it.
func number(n uint64, size int) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+size), n)
	for i := range size {
		b = append(b, byte(n)+byte(i))
	}
	return b
}

// numberOf checks a payload and returns its number.
func numberOf(t tester, b []byte) uint64 {
	t.Helper()
	if len(b) < 8 {
		t.Fatalf("a record of %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	for i, got := range b[8:] {
		if got != byte(n)+byte(i) {
			t.Fatalf("record %d has %d at %d", n, got, i)
		}
	}
	return n
}

// waits are the ways to wait.
var waits = []ring.Wait{ring.WaitAdaptive, ring.WaitPark, ring.WaitSpin}

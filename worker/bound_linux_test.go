package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// hostileValue is encoded as Item repeated, in a list of Size bytes, whatever the other side
// takes it for.
type hostileValue struct {
	Item string
	Size int
}

func (v hostileValue) MarshalCBOR() ([]byte, error) {
	n := v.Size / len(v.Item)
	return append(binary.BigEndian.AppendUint32([]byte{0x9a}, uint32(n)), bytes.Repeat([]byte(v.Item), n)...), nil
}

func (*hostileValue) UnmarshalCBOR([]byte) error { return nil }

type wideValue struct{ A [1000]int64 }

// What the host takes for any and wide structs, and what the hostile worker sends for them; and the
// other way round.
var (
	hostileBack  = ipc.NewMethod[hostileItems, hostileValue]("test.bound_back")
	anyBack      = ipc.NewMethod[hostileItems, any]("test.bound_back")
	wideBack     = ipc.NewMethod[hostileItems, []wideValue]("test.bound_back")
	wideBackLess = ipc.NewMethod[hostileItems, []wideValue]("test.bound_back", ipc.WithMaxDecoded(1<<20))
	hostileAny   = ipc.NewMethod[hostileValue, int]("test.bound_any")
	takesAny     = ipc.NewMethod[any, int]("test.bound_any")
	hostileWide  = ipc.NewMethod[hostileValue, int]("test.bound_wide")
	takesWide    = ipc.NewMethod[[]wideValue, int]("test.bound_wide")
	peakMemory   = ipc.NewMethod[int, int64]("test.bound_peak")
)

// hostileItems asks a worker for a hostile value.
type hostileItems struct {
	Item string
	Size int
}

func init() {
	entries["bound"] = func() error {
		s := worker.NewServer()
		worker.Handle(s, hostileBack, func(_ context.Context, v hostileItems) (hostileValue, error) { return hostileValue(v), nil })
		worker.Handle(s, takesAny, func(context.Context, any) (int, error) { return 1, nil })
		worker.Handle(s, takesWide, func(_ context.Context, v []wideValue) (int, error) { return len(v), nil })
		worker.Handle(s, peakMemory, func(context.Context, int) (int64, error) { return highWater() })
		return s.Serve(context.Background())
	}
}

// highWater returns the most memory that this process has had, in bytes.
func highWater() (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM")
}

// A peer that sends little which takes much to decode gets an error for it: a worker to its host, and a host to
// its worker. The other side has allocated next to nothing for it, and goes on.
func TestHostileValues(t *testing.T) {
	const size = 8 << 20
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w, err := s.spawn(t.Context(), worker.Self("bound"))
		require.NoError(t, err)
		defer func() { require.NoError(t, w.Close()) }()
		refused := func(err error, remote bool, text string) {
			t.Helper()
			var e *ipc.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, ipc.CodeResourceExhausted, e.Code, "%v", err)
			require.Equal(t, remote, e.Remote())
			require.ErrorContains(t, err, text)
		}
		for _, item := range []string{"\xa0", "\xa1\x01\x01"} {
			_, err = anyBack.Call(t.Context(), w, hostileItems{item, size})
			refused(err, false, "decode the response")
			_, err = hostileAny.Call(t.Context(), w, hostileValue{item, size})
			refused(err, true, "decode the request")
		}
		_, err = wideBack.Call(t.Context(), w, hostileItems{"\xa0", 40_000})
		refused(err, false, "decode the response")
		_, err = wideBackLess.Call(t.Context(), w, hostileItems{"\xa0", 200})
		refused(err, false, "more than 1048576 bytes")
		_, err = hostileWide.Call(t.Context(), w, hostileValue{"\xa0", 40_000})
		refused(err, true, "decode the request")
		n, err := hostileWide.Call(t.Context(), w, hostileValue{"\xa0", 1000})
		require.NoError(t, err)
		require.Equal(t, 1000, n)
		got, err := wideBack.Call(t.Context(), w, hostileItems{"\xa0", 100})
		require.NoError(t, err)
		require.Len(t, got, 100)

		peak, err := peakMemory.Call(t.Context(), w, 0)
		require.NoError(t, err)
		t.Logf("the worker had %d MiB at most", peak>>20)
		if !raceEnabled {
			require.Less(t, peak, int64(16*size), "some copies of a message, and no value of it")
		}
	})
}

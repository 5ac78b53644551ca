//go:build linux

package hostile

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What the processes of a row have in their environment.
const (
	rowEnv    = "HOSTILE_ROW"
	driverEnv = "HOSTILE_DRIVER"
	roleEnv   = "HOSTILE_ROLE" // of a process that the test starts: "honest" or "hostile" host
)

// reportFD is where the honest side writes its report.
const reportFD = 3

// The contract of both sides.
var (
	echo = ipc.NewMethod[[]byte, []byte]("hostile.echo", ipc.WithCodec(ipc.Raw))
	sum  = ipc.NewMethod[[]int, int]("hostile.sum")
	told = ipc.NewMethod[[]byte, []byte]("hostile.told", ipc.WithCodec(ipc.Raw))
	// stuck runs until its context ends.
	stuck = ipc.NewMethod[[]byte, []byte]("hostile.stuck", ipc.WithCodec(ipc.Raw))
	// few is stuck of which few run at a time.
	few = ipc.NewMethod[[]byte, []byte]("hostile.few", ipc.WithCodec(ipc.Raw))
	// inPlace is echo, by a handler in place.
	inPlace = ipc.NewMethod[[]byte, []byte]("hostile.in_place", ipc.WithCodec(ipc.Raw))
	// The streams: echoStream sends back what it gets, doublingStream all of it twice at the end,
	// stuckStream runs until its context ends, endedStream returns at once.
	echoStream     = ipc.NewBidiStream[[]byte, []byte]("hostile.echo", ipc.WithCodec(ipc.Raw))
	doublingStream = ipc.NewBidiStream[[]byte, []byte]("hostile.doubling", ipc.WithCodec(ipc.Raw))
	stuckStream    = ipc.NewBidiStream[[]byte, []byte]("hostile.stuck", ipc.WithCodec(ipc.Raw))
	endedStream    = ipc.NewBidiStream[[]byte, []byte]("hostile.ended", ipc.WithCodec(ipc.Raw))
	// work makes an honest worker do its calls.
	work = ipc.NewMethod[[]byte, []byte]("hostile.work", ipc.WithCodec(ipc.Raw))
	// last is the last call of the honest side. A hostile side that answers at all answers
	// it when it has done its worst.
	last = ipc.NewMethod[[]byte, []byte]("hostile.last", ipc.WithCodec(ipc.Raw))
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("hostile", hostileWorker)
	worker.Main("honest", honestWorker)
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		flag.Parse()
		// The rows wait for each other's processes for most of the time.
		if err := flag.Set("test.parallel", "24"); err != nil {
			panic(err)
		}
		os.Exit(drivertest.VerifyNoLeaks(m.Run))
	case "honest":
		err = honestHost()
	case "hostile":
		err = hostileHost()
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

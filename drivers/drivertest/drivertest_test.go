package drivertest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

func TestMain(m *testing.M) { drivertest.Main(m) }

// faultEnv makes TestFaultyDriver run the suite on a driver with that fault.
const faultEnv = "IPCTEST_FAULT"

// The suite is worth what it finds: each of these faults has to fail it.
func TestSuiteFindsFaults(t *testing.T) {
	for fault, cases := range map[string]string{
		"none":             "Frames|Batch|Hold|Wait|Close|Death",
		"mixes a batch up": "Batch",
		"counts too many":  "Batch",
		"holds nothing":    "Hold",
		"drops a frame":    "Frames",
		"swaps two frames": "Frames",
		"keeps payload":    "Frames",
		"lends owned":      "Frames",
		"loses method":     "Frames",
		"loses metadata":   "Frames/Metadata",
		"keeps metadata":   "Frames/Metadata",
		"loses form":       "Frames/Streams",
		"cuts pieces":      "Frames/Streams",
		"end overtakes":    "Frames/Streams",
		"limit is silent":  "Frames",
		"busy sleep":       "Wait/IdleCostsNoCPU",
		"ends early":       "Death",
		"wrong error":      "Close",
		"leaks":            "Many/NothingStays",
	} {
		t.Run(fault, func(t *testing.T) {
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe, "-test.run=^TestFaultyDriver$/"+cases, "-test.failfast")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if fault == "none" {
				require.NoError(t, err, "%s", out)
				return
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			assert.Contains(t, string(out), "--- FAIL: TestFaultyDriver/"+cases)
			assert.NotContains(t, string(out), "hangs")
		})
	}
}

func TestFaultyDriver(t *testing.T) {
	fault, ok := os.LookupEnv(faultEnv)
	if !ok {
		t.Skip("TestSuiteFindsFaults runs it")
	}
	drivertest.TestDriver(t, faultyDriver{fault: fault})
}

// faultyDriver is a good driver with a fault in the host's end of its links.
type faultyDriver struct {
	socket.Driver
	fault string
}

type faultyChannel struct {
	*socket.Channel
	fault string
}

type faultyLink struct {
	drivers.Link
	fault string
	sent  int
	held  *drivers.Frame
	kept  []byte
	meta  *drivers.Metadata
}

func (d faultyDriver) Spawn(ctx context.Context, cmd *drivers.Command) (*faultyChannel, error) {
	c, err := d.Driver.Spawn(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return &faultyChannel{c, d.fault}, nil
}

func (c *faultyChannel) Links(fn func(drivers.Link)) {
	c.Channel.Links(func(l drivers.Link) {
		if c.fault == "none" {
			fn(l)
			return
		}
		fn(&faultyLink{Link: l, fault: c.fault})
	})
}

// leaked keeps the garbage collector from mending the fault.
var leaked []*os.File

func (c *faultyChannel) Close() error {
	if c.fault == "leaks" {
		if null, err := os.Open(os.DevNull); err == nil {
			leaked = append(leaked, null)
		}
	}
	return c.Channel.Close()
}

func (l *faultyLink) Send(ctx context.Context, sent *drivers.Frame) error {
	f := *sent
	l.sent++
	switch {
	case l.fault == "drops a frame" && l.sent == 70_000:
		return nil
	case l.fault == "swaps two frames" && l.sent == 70_000:
		f.Payload = bytes.Clone(f.Payload)
		l.held = &f
		return nil
	case l.fault == "swaps two frames" && l.held != nil:
		held := *l.held
		l.held = nil
		if err := l.Link.Send(ctx, &f); err != nil {
			return err
		}
		return l.Link.Send(ctx, &held)
	case l.fault == "loses method":
		f.Method = 0
	case l.fault == "loses metadata":
		f.Meta = nil
	case l.fault == "keeps metadata":
		if f.Meta != nil {
			l.meta = f.Meta
		}
		f.Meta = l.meta
	case l.fault == "loses form" && f.Kind == drivers.KindItems:
		f.Method = 0
	case l.fault == "cuts pieces" && f.Kind == drivers.KindItems && len(f.Payload) == drivers.MaxPiece:
		f.Payload = f.Payload[:len(f.Payload)-1]
	case l.fault == "end overtakes" && f.Kind == drivers.KindItems && f.Method == 0 && l.sent%2 == 1:
		f.Payload = bytes.Clone(f.Payload)
		l.held = &f
		return nil
	case l.fault == "end overtakes" && l.held != nil:
		held := *l.held
		l.held = nil
		if err := l.Link.Send(ctx, &f); err != nil {
			return err
		}
		return l.Link.Send(ctx, &held)
	case l.fault == "keeps payload" && l.sent%2 == 1 && len(f.Payload) < 300 && f.Kind == drivers.KindNotify:
		l.held = &f
		return nil
	case l.fault == "keeps payload" && l.held != nil:
		held := *l.held
		l.held = nil
		if err := l.Link.Send(ctx, &held); err != nil {
			return err
		}
	}
	err := l.Link.Send(ctx, &f)
	var size *ipc.SizeError
	if l.fault == "limit is silent" && errors.As(err, &size) {
		return nil
	}
	if l.fault == "wrong error" && err != nil {
		return errors.New("broken pipe")
	}
	return err
}

func (l *faultyLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	frames = slices.Clone(frames)
	if l.fault == "mixes a batch up" && len(frames) > 20 {
		frames[3], frames[4] = frames[4], frames[3]
	}
	n, err := l.Link.SendBatch(ctx, frames)
	if l.fault == "counts too many" && err != nil {
		n = min(n+1, len(frames)-1)
	}
	return n, err
}

func (l *faultyLink) Hold() func() {
	if l.fault == "holds nothing" {
		return func() {}
	}
	return l.Link.Hold()
}

func (l *faultyLink) Next(f *drivers.Frame) (bool, error) {
	ok, err := l.Link.Next(f)
	if l.fault == "ends early" && ok && len(f.Payload) > 0 {
		// What it had sent is lost when the process has ended.
		if _, gone := os.Stat("/proc/" + strconv.Itoa(l.Peer().PID)); gone != nil {
			return false, ipc.ErrPeerGone
		}
	}
	if l.fault == "lends owned" && ok {
		l.kept = append(l.kept[:0], f.Payload...)
		f.Payload, f.Owned = l.kept, true
	}
	return ok, err
}

func (l *faultyLink) Sleep(until func() bool) {
	if l.fault == "busy sleep" {
		return
	}
	l.Link.Sleep(until)
}

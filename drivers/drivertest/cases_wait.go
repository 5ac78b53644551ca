package drivertest

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var waitCases = []testCase{
	{"Wake", testWake},
	{"SleepUntil", testSleepUntil},
	{"SleepBesideReader", testSleepBesideReader},
	{"Ready", testReady},
	{"ManyWakeUps", testManyWakeUps},
	{"IdleCostsNoCPU", testIdle},
}

// sleepBlocked is a Sleep with a name that stacks show.
//
//go:noinline
func sleepBlocked(l drivers.Link, until func() bool) { l.Sleep(until) }

func never() bool { return false }

// testWake: Wake ends the Sleep that runs, or the next one.
func testWake(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	for range 100 {
		p.link.Wake()
		p.link.Sleep(never)
	}
	for range 20 {
		var woken atomic.Bool
		left := make(chan struct{})
		go func() {
			for !woken.Load() { // Sleep may return for no reason
				sleepBlocked(p.link, woken.Load)
			}
			close(left)
		}()
		awaitParked("sleepBlocked", 1)
		woken.Store(true)
		p.link.Wake()
		<-left
	}
	for range 2000 { // wherever in Sleep it hits
		woken := make(chan struct{})
		go func() { p.link.Sleep(never); close(woken) }()
		p.link.Wake()
		<-woken
	}
	p.echo(1, 100)
	p.end()
}

// testSleepUntil: Sleep does not block if there is no reason to.
func testSleepUntil(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	calls := 0
	for range 1000 {
		p.link.Sleep(func() bool { calls++; return true })
	}
	assert.Equal(t, 1000, calls)
	p.echo(1, 100)
	p.end()
}

// testSleepBesideReader: a goroutine can sleep on an armed link while another
// one holds the reader role, and what arrives wakes it.
func testSleepBesideReader(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	for i := range uint64(20) {
		_, ok, err := look(p.link)
		require.NoError(t, err)
		require.False(t, ok)
		p.link.Arm()
		require.False(t, p.link.Ready())
		woken := make(chan struct{})
		go func() {
			for !p.link.Ready() {
				sleepBlocked(p.link, p.link.Ready)
			}
			close(woken)
		}()
		awaitParked("sleepBlocked", 1)
		_, ok, err = look(p.link) // the reader looks beside the sleeper
		require.NoError(t, err)
		require.False(t, ok)
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: payload(i, 100)})
		<-woken
		p.link.Disarm()
		require.Equal(t, i, p.receive().Tx)
	}
	p.end()
}

// testReady: Ready says what Next would do.
func testReady(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	assert.False(t, p.link.Ready())
	p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: 7})
	await(p.link.Ready)
	f, ok, err := look(p.link)
	require.NoError(t, err)
	require.True(t, ok)
	assert.EqualValues(t, 7, f.Tx)
	_, ok, err = look(p.link)
	require.NoError(t, err)
	require.False(t, ok)
	assert.False(t, p.link.Ready())
	p.link.Shutdown()
	assert.True(t, p.link.Ready(), "there is an error to be told")
	_, _, err = look(p.link)
	assert.ErrorIs(t, err, ipc.ErrDisconnected)
	p.end()
}

// testManyWakeUps: no wake-up is lost when both sides go to sleep after every
// frame; a single lost one would hang.
func testManyWakeUps(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	sleep := func() {
		for !p.link.Ready() {
			p.link.Arm()
			if !p.link.Ready() {
				p.link.Sleep(p.link.Ready)
			}
			p.link.Disarm()
		}
	}
	for i := range uint64(5000) {
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i})
		if i%3 == 0 {
			runtime.Gosched()
		}
		sleep()
		f, ok, err := look(p.link)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, i, f.Tx)
	}
	p.end()
}

// testIdle: nothing runs on either side of an idle link.
func testIdle(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	if processTime("self") < 0 {
		t.Skip("no process times on this system")
	}
	p.echo(1, 100)
	ended := make(chan error, 1)
	go func() { ended <- receiveAll(p.link, func(drivers.Frame) {}) }()

	const idle = 300 * time.Millisecond
	worker := strconv.Itoa(p.process.PID())
	host0, worker0 := processTime("self"), processTime(worker)
	whileBusy(t, idle) // this is what is measured
	host, other := processTime("self")-host0, processTime(worker)-worker0
	assert.Less(t, host, idle/5, "CPU time of the host while a busy process got %v", idle)
	assert.Less(t, other, idle/5, "CPU time of the worker while a busy process got %v", idle)

	p.link.Shutdown()
	assert.ErrorIs(t, <-ended, ipc.ErrDisconnected)
	p.end()
}

// whileBusy waits until a process that does nothing but compute has got d of CPU time: as
// long as that takes on a loaded machine.
func whileBusy(t *testing.T, d time.Duration) {
	busy := exec.Command("sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Skipf("no shell: %v", err)
	}
	defer func() {
		assert.NoError(t, busy.Process.Kill())
		assert.Error(t, busy.Wait(), "it was killed")
	}()
	pid := strconv.Itoa(busy.Process.Pid)
	for used := time.Duration(0); used < d; used = processTime(pid) {
		if !assert.GreaterOrEqual(t, used, time.Duration(0), "the busy process has ended") {
			return
		}
		time.Sleep(d / 3) // to look costs what is measured
	}
}

// processTime returns the CPU time that a process has used, -1 if unknown.
func processTime(pid string) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return -1
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // as proc(5) counts, less pid, name and the index base
	if len(fields) <= stime {
		return -1
	}
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return -1
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// residentMemory returns how much memory a process uses that is its own, in
// bytes, 0 if unknown.
func residentMemory(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			return kb << 10
		}
	}
	return 0
}

package ring

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSupported(t *testing.T) {
	require.NoError(t, Supported())
}

// reopened returns a new descriptor of the segment's memory, as a peer gets one.
func reopened(t *testing.T, s *Segment) *os.File {
	fd, err := unix.FcntlInt(s.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "peer's")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSegment(t *testing.T) {
	for _, opts := range [][]Option{nil, {Prefault()}, {Start(1 << 40), Prefault()}} {
		s, err := Create(64<<10, opts...)
		require.NoError(t, err)
		require.Len(t, s.Bytes(), ControlSize+64<<10)
		require.Equal(t, 64<<10, s.RingSize())
		f := reopened(t, s)
		r, err := Open(f, opts...)
		require.NoError(t, err)
		require.Nil(t, r.File())
		require.Equal(t, 64<<10, r.RingSize())
		require.NoError(t, f.Close())
		s.Bytes()[5000] = 42
		require.EqualValues(t, 42, r.Bytes()[5000])
		require.EqualValues(t, newOptions(opts).start, *u64At(r.Bytes(), offStart))

		// The peer's mapping stays whole when the owner goes.
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
		require.Nil(t, s.Bytes())
		require.Nil(t, s.File())
		require.EqualValues(t, 42, r.Bytes()[5000])
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
	}
	_, err := Create(5000)
	require.ErrorIs(t, err, ErrLayout)
	_, err = Create(MinSize, Start(4))
	require.ErrorIs(t, err, ErrLayout)
}

// TestNobodyElseWrites is the trust model: with the descriptor in hand, the peer
// gets at the memory by reading only.
func TestNobodyElseWrites(t *testing.T) {
	s, err := Create(MinSize)
	require.NoError(t, err)
	defer s.Close()
	f := reopened(t, s)
	fd := int(f.Fd())
	size := ControlSize + MinSize

	_, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EPERM, "mmap")
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	err = unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE)
	require.True(t, errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES), "mprotect: %v", err)
	require.NoError(t, unix.Munmap(mem))
	_, err = unix.Pwrite(fd, []byte{1}, 0)
	require.ErrorIs(t, err, unix.EPERM, "pwrite")
	require.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM, "shrink")
	require.ErrorIs(t, unix.Ftruncate(fd, int64(size)+4096), unix.EPERM, "grow")
	require.ErrorIs(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), unix.EPERM, "punch a hole")
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM, "more seals")

	// Nor by way of /proc, which gives a new open file.
	again, err := os.OpenFile("/proc/self/fd/"+itoa(fd), os.O_RDWR, 0)
	if err == nil {
		_, err = unix.Mmap(int(again.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		require.ErrorIs(t, err, unix.EPERM, "mmap of the reopened file")
		again.Close()
	}

	// The owner does.
	s.Bytes()[4096] = 1
}

func itoa(n int) string {
	var b []byte
	for ; n > 0 || b == nil; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

const requiredSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL

// TestOpenRefuses goes through files that a peer might pass instead of a segment.
func TestOpenRefuses(t *testing.T) {
	const size = ControlSize + MinSize
	anonymous := func(size int64, allocate bool, seals int) *os.File {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		require.NoError(t, unix.Ftruncate(fd, size))
		if allocate {
			require.NoError(t, unix.Fallocate(fd, 0, 0, size))
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		return os.NewFile(uintptr(fd), "test")
	}
	disk, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	require.NoError(t, disk.Truncate(size))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	require.NoError(t, err)
	rd, wr, err := os.Pipe()
	require.NoError(t, err)
	defer wr.Close()
	dir, err := os.Open(".")
	require.NoError(t, err)

	for _, tt := range []struct {
		name string
		file *os.File
		is   error
		want string
	}{
		{"unsealed", anonymous(size, true, 0), ErrSeals, "it has seals none, want SEAL|SHRINK|GROW|FUTURE_WRITE"},
		{"can shrink", anonymous(size, true, requiredSeals&^unix.F_SEAL_SHRINK), ErrSeals, "it has seals SEAL|GROW|FUTURE_WRITE, want"},
		{"can grow", anonymous(size, true, requiredSeals&^unix.F_SEAL_GROW), ErrSeals, "it has seals SEAL|SHRINK|FUTURE_WRITE, want"},
		{"writable", anonymous(size, true, requiredSeals&^unix.F_SEAL_FUTURE_WRITE), ErrSeals, "it has seals SEAL|SHRINK|GROW, want"},
		{"more seals possible", anonymous(size, true, requiredSeals&^unix.F_SEAL_SEAL), ErrSeals, "it has seals SHRINK|GROW|FUTURE_WRITE, want"},
		{"empty", anonymous(0, false, requiredSeals), ErrLayout, "segment of 0 bytes, want 8192 to 1073745920"},
		{"huge", anonymous(1<<40, false, requiredSeals), ErrLayout, "segment of 1099511627776 bytes, want"},
		{"no power of two", anonymous(size+4096, true, requiredSeals), ErrLayout, "ring of 8192 bytes"},
		{"sparse", anonymous(size, false, requiredSeals), ErrLayout, "0 of the segment's 8192 bytes are allocated"},
		{"regular file", disk, ErrSeals, "no memory file with seals"},
		{"device", null, ErrSeals, "no memory file with seals"},
		{"pipe", rd, ErrSeals, "no memory file with seals"},
		{"directory", dir, ErrSeals, "no memory file with seals"},
	} {
		if tt.name == "no power of two" {
			tt.file.Close()
			tt.file = anonymous(ControlSize+12288, true, requiredSeals)
			tt.want = "ring of 12288 bytes, want a power of two"
		}
		s, err := Open(tt.file)
		require.Nil(t, s, tt.name)
		require.ErrorIs(t, err, tt.is, tt.name)
		require.ErrorContains(t, err, tt.want, tt.name)
		require.NoError(t, tt.file.Close())
	}
	_, err = Open(disk)
	require.ErrorContains(t, err, "use of closed file")

	// Memory that is sealed, of a good size, but not formatted.
	f := anonymous(size, true, requiredSeals)
	defer f.Close()
	s, err := Open(f)
	require.NoError(t, err)
	defer s.Close()
	_, _, err = Join(newSegment(t, MinSize, 0), s.Bytes())
	require.ErrorContains(t, err, "remote segment has magic 0x0, want 0x31676e6972646e74")
}

// TestKilledProducer: what a producer published before it was killed is read to
// the end, and nothing else.
func TestKilledProducer(t *testing.T) {
	ctx := watchdog(t)
	l := startHelper(t, "source", 64<<10, WaitAdaptive)
	for n := uint64(0); ; n++ {
		r, ok, err := l.c.Next()
		require.NoError(t, err)
		if !ok {
			if l.cmd.ProcessState != nil {
				require.Greater(t, n, uint64(1000))
				break // dead, and nothing is left
			}
			require.NoError(t, l.c.Wait(ctx))
			n--
			continue
		}
		require.EqualValues(t, 7, r.Tag)
		require.Equal(t, n, binary.NativeEndian.Uint64(r.Data))
		if n == 1000 {
			require.NoError(t, l.cmd.Process.Kill())
			l.cmd.Wait()
		}
	}
	require.ErrorIs(t, l.c.Wait(ctx), ErrPeerGone)
}

// TestStoppedConsumer: a peer that does not run any more blocks a sender for as
// long as its context allows.
func TestStoppedConsumer(t *testing.T) {
	watchdog(t)
	for _, wait := range []Wait{WaitAdaptive, WaitPark} {
		l := startHelper(t, "sink", MinSize, wait)
		require.NoError(t, l.p.Write(1, nil))
		l.next() // it is there
		require.NoError(t, l.cmd.Process.Signal(syscall.SIGSTOP))
		var status unix.WaitStatus
		_, err := unix.Wait4(l.cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		require.NoError(t, err)
		require.True(t, status.Stopped())
		for l.p.Write(0, make([]byte, 100)) == nil {
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.p.Send(ctx, 0, make([]byte, 100), nil) }()
		untilAsleep(&l.p.sleep)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		// Continued, it takes up where it was.
		require.NoError(t, l.cmd.Process.Signal(syscall.SIGCONT))
		require.NoError(t, l.p.Send(context.Background(), 1, nil, nil))
		l.next()
	}
}

// TestTwoProcesses sends all kinds of sizes to another process and back, parked
// and spinning.
func TestTwoProcesses(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range []Wait{WaitAdaptive, WaitPark, WaitSpin} {
		l := startHelper(t, "echo", MinSize, wait)
		for i := range scaled(3000) {
			want := fill(i%1000, uint64(i))
			require.NoError(t, l.p.Send(ctx, byte(i), want, nil))
			r := l.next()
			require.Equal(t, byte(i), r.Tag)
			require.Equal(t, want, append([]byte{}, r.Data...))
		}
	}
}

const faulted = 7 // the exit code of a helper that was refused a write

// TestPeerWritesOnlyItsOwn: a process that writes to the peer's segment gets a
// fault, and the peer does not notice.
func TestPeerWritesOnlyItsOwn(t *testing.T) {
	l := startHelper(t, "vandal", MinSize, WaitPark)
	err := l.cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, faulted, exit.ExitCode())
	require.Equal(t, "tndring1", string(l.ours.Bytes()[:8]))
}

func init() {
	helpers["vandal"] = func(args []string) {
		l, _ := helperLink(args)
		debug.SetPanicOnFault(true)
		defer func() {
			if recover() != nil {
				os.Exit(faulted)
			}
		}()
		l.theirs.Bytes()[0] = 0
	}
}

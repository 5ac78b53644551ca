package worker_test

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// fileShort leaves a worker so many descriptors, or, if that is negative, as many as before.
var fileShort = ipc.NewMethod[int, int]("test.file_short")

func init() {
	serveFilesHere = func(s *worker.Server) {
		var before unix.Rlimit
		worker.Handle(s, fileShort, func(_ context.Context, free int) (int, error) {
			if free < 0 {
				return 0, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
			}
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
				return 0, err
			}
			return 0, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: leaktest.FilesFor(free), Max: before.Max})
		})
	}
}

// A worker without descriptors for the files that come says so, to each caller that it belongs
// to. Nothing else is harmed, and the same succeeds when there are some again.
func TestNoDescriptorsForFiles(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for _, free := range []int{0, 1, 4} {
			p := newProbe(t)
			_, err := fileShort.Call(t.Context(), w, free)
			require.NoError(t, err)
			for range 5 {
				for _, n := range []int{free + 1, ipc.MaxFiles} {
					_, err = parcelEcho.Call(t.Context(), w, p.parcelOf("too many", n))
					require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "%v", err)
					require.ErrorContains(t, err, "open files")
				}
				got, err := rawEcho.Call(t.Context(), w, []byte("without"))
				require.NoError(t, err)
				require.Equal(t, "without", string(got))
				require.NoError(t, parcelEcho.Notify(t.Context(), w, p.parcelOf("too many", ipc.MaxFiles)))
				if free == 0 {
					continue
				}
				eventually(t, "the notification's are closed", func() bool {
					back, err := parcelEcho.Call(t.Context(), w, p.parcelOf("not too many", 1))
					back.close()
					return err == nil
				})
			}
			st, err := fileItems.Open(t.Context(), w)
			require.NoError(t, err)
			_ = st.Send(t.Context(), p.parcelOf("too many", ipc.MaxFiles))
			_, err = st.Receive(t.Context())
			require.ErrorContains(t, err, "open files")
			st.Close()
			_, err = fileShort.Call(t.Context(), w, -1)
			require.NoError(t, err)
			back, err := parcelEcho.Call(t.Context(), w, p.parcelOf("not too many", ipc.MaxFiles))
			require.NoError(t, err)
			back.close()
			p.requireClosed(t)
		}
	})
}

// Memory crosses like a file, and what it is, and is not, open for.
func TestMemoryCrosses(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "memory")
		defer f.Close()
		_, err = f.WriteString("in memory")
		require.NoError(t, err)
		got, err := fileEcho.Call(t.Context(), w, ipc.NewFile(f))
		require.NoError(t, err)
		back := got.Take()
		defer back.Close()
		require.Nil(t, got.File())
		_, err = back.WriteAt([]byte("IN"), 0)
		require.NoError(t, err)
		b := make([]byte, 9)
		_, err = f.ReadAt(b, 0)
		require.NoError(t, err)
		require.Equal(t, "IN memory", string(b))
		raw, err := back.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.FD_CLOEXEC, "other programs would get it")
		}))
	})
}

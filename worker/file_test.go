//go:build unix

package worker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// parcel is a message with files.
type parcel struct {
	What  string
	File  ipc.File
	More  []ipc.File
	Named map[string]*ipc.File
}

var (
	fileEcho    = ipc.NewMethod[ipc.File, ipc.File]("test.file_echo", ipc.WithCodec(ipc.Raw))
	parcelEcho  = ipc.NewMethod[parcel, parcel]("test.parcel_echo")
	parcelJSON  = ipc.NewMethod[parcel, parcel]("test.parcel_json", ipc.WithCodec(ipc.JSON))
	fileUse     = ipc.NewMethod[parcel, string]("test.file_use") // does what What says
	fileUseSafe = ipc.NewMethod[parcel, string]("test.file_use_safe", ipc.WithIdempotent())
	fileLate    = ipc.NewMethod[parcel, parcel]("test.file_late")   // answers when the caller has given up
	fileOpen    = ipc.NewMethod[string, ipc.File]("test.file_open") // of the worker's
	fileItems   = ipc.NewBidiStream[parcel, parcel]("test.file_items")
	fileList    = ipc.NewServerStream[parcel, parcel]("test.file_list") // the request, What times
	fileSink    = ipc.NewClientStream[parcel, int]("test.file_sink")    // looks at one item
)

// serveFilesHere registers further handlers on this system.
var serveFilesHere = func(*worker.Server) {}

func serveFiles(s *worker.Server) {
	serveFilesHere(s)
	worker.Handle(s, fileEcho, func(_ context.Context, f ipc.File) (ipc.File, error) { return f, nil })
	worker.Handle(s, parcelEcho, func(_ context.Context, p parcel) (parcel, error) { return p, nil })
	worker.Handle(s, parcelJSON, func(_ context.Context, p parcel) (parcel, error) { return p, nil })
	worker.Handle(s, fileBack, func(ctx context.Context, p parcel) (parcel, error) {
		got, err := fileHost.Call(ctx, worker.Host(ctx), p)
		if p.What == "fail" {
			err = errors.New("no")
		}
		return got, err
	})
	worker.Handle(s, fileUse, useFile)
	worker.Handle(s, fileUseSafe, useFile)
	worker.Handle(s, fileLate, func(ctx context.Context, p parcel) (parcel, error) {
		<-ctx.Done()
		return p, nil
	})
	worker.Handle(s, fileOpen, func(_ context.Context, name string) (ipc.File, error) {
		f, err := os.Open(name)
		if err != nil {
			return ipc.File{}, err
		}
		return ipc.NewFile(f), nil
	})
	worker.HandleBidiStream(s, fileItems, func(ctx context.Context, in *ipc.Receiver[parcel], out *ipc.Sender[parcel]) error {
		for p, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			err := out.Send(ctx, p)
			p.close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleServerStream(s, fileList, func(ctx context.Context, p parcel, out *ipc.Sender[parcel]) error {
		for range len(p.What) {
			if err := out.Send(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleClientStream(s, fileSink, func(ctx context.Context, in *ipc.Receiver[parcel]) (int, error) {
		p, err := in.Receive(ctx)
		p.close()
		return len(p.More), err
	})
}

// diesOnce is followed by a path: the worker dies unless there is something.
const diesOnce = "die once "

// useFile does something with the file of a parcel, and leaves it to the library to close it,
// unless it is to take it.
func useFile(ctx context.Context, p parcel) (string, error) {
	if path, ok := strings.CutPrefix(p.What, diesOnce); ok {
		if _, err := p.File.File().WriteString("x"); err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err != nil {
			_ = os.WriteFile(path, nil, 0o600)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			forever()
		}
	}
	switch f := p.File.File(); p.What {
	case "read":
		b := make([]byte, 100)
		n, err := f.Read(b)
		return string(b[:n]), err
	case "rest":
		b, err := io.ReadAll(f)
		return string(b), err
	case "take":
		return "taken", p.File.Take().Close()
	case "accept":
		l, err := net.FileListener(f)
		if err != nil {
			return "", err
		}
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			return "", err
		}
		defer c.Close()
		_, err = c.Write([]byte("from the worker"))
		return c.RemoteAddr().Network(), err
	case "say":
		c, err := net.FileConn(f)
		if err != nil {
			return "", err
		}
		defer c.Close()
		_, err = c.Write([]byte("from the worker"))
		return "", err
	case "error":
		return "", errors.New("no")
	case "panic":
		panic("a handler with a file")
	case "block":
		<-ctx.Done()
		return "", ctx.Err()
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		forever()
	}
	return p.What, nil
}

func (p parcel) close() {
	p.File.Close()
	for _, f := range p.More {
		f.Close()
	}
	for _, f := range p.Named {
		f.Close()
	}
}

// probe is a file that knows whether anybody has it still.
type probe struct {
	ipc.File
	own, other *os.File
}

func newProbe(t testing.TB) *probe {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return &probe{ipc.NewFile(w), w, r}
}

// requireClosed closes our file, and waits until no process has it any more.
func (p *probe) requireClosed(t testing.TB) {
	t.Helper()
	p.own.Close()
	require.NoError(t, p.other.SetReadDeadline(time.Now().Add(probePatience)))
	_, err := io.Copy(io.Discard, p.other)
	require.NoError(t, err, "a process has kept the file")
}

// parcelOf returns a parcel that does what, with n files that are one pipe's.
func (p *probe) parcelOf(what string, n int) parcel {
	out := parcel{What: what, File: p.File}
	for range n - 1 {
		out.More = append(out.More, ipc.NewFile(p.own)) // other numbers, for other files
	}
	return out
}

func TestFileCrosses(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		dir := t.TempDir()

		t.Run("regular", func(t *testing.T) { // with its offset, which both have
			name := filepath.Join(dir, "regular")
			require.NoError(t, os.WriteFile(name, []byte("0123456789"), 0o600))
			f, err := os.Open(name)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.Seek(2, io.SeekStart)
			require.NoError(t, err)
			got, err := fileUse.Call(t.Context(), w, parcel{What: "rest", File: ipc.NewFile(f)})
			require.NoError(t, err)
			require.Equal(t, "23456789", got)
			at, err := f.Seek(0, io.SeekCurrent)
			require.NoError(t, err)
			require.Equal(t, int64(10), at)

			opened, err := fileOpen.Call(t.Context(), w, name)
			require.NoError(t, err)
			defer opened.Close()
			b, err := io.ReadAll(opened.File())
			require.NoError(t, err)
			require.Equal(t, "0123456789", string(b))
		})
		t.Run("pipe", func(t *testing.T) {
			r, w2, err := os.Pipe()
			require.NoError(t, err)
			defer r.Close()
			defer w2.Close()
			f, err := fileUse.Go(t.Context(), w, parcel{What: "read", File: ipc.NewFile(r)})
			require.NoError(t, err)
			_, err = w2.WriteString("through a pipe")
			require.NoError(t, err)
			got, err := f.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, "through a pipe", got)
			require.NoError(t, w2.SetWriteDeadline(time.Now().Add(time.Minute)), "it does not block still")
		})
		for _, network := range []string{"tcp", "unix"} {
			t.Run(network, func(t *testing.T) {
				addr := "127.0.0.1:0"
				if network == "unix" {
					addr = filepath.Join(dir, "s")
				}
				l, err := net.Listen(network, addr)
				require.NoError(t, err)
				defer l.Close()
				f, err := l.(interface{ File() (*os.File, error) }).File()
				require.NoError(t, err)
				call, err := fileUse.Go(t.Context(), w, parcel{What: "accept", File: ipc.NewFile(f)})
				f.Close() // it was sent
				require.NoError(t, err)
				c, err := net.Dial(network, l.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				b, err := io.ReadAll(c)
				require.NoError(t, err)
				require.Equal(t, "from the worker", string(b))
				got, err := call.Wait(t.Context())
				require.NoError(t, err)
				require.Equal(t, network, got)
			})
		}
		t.Run("socketpair", func(t *testing.T) {
			fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			require.NoError(t, err)
			ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
			defer ours.Close()
			_, err = fileUse.Call(t.Context(), w, parcel{What: "say", File: ipc.NewFile(theirs)})
			require.NoError(t, err)
			theirs.Close()
			b, err := io.ReadAll(ours)
			require.NoError(t, err)
			require.Equal(t, "from the worker", string(b))
		})
	})
}

// Each file arrives where the message has it, whatever else is sent, and nobody keeps one.
func TestFilesInMessages(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		p := newProbe(t)
		var names []string
		numbered := func(n int) parcel { // of files that say their number
			out := parcel{What: "numbered", Named: make(map[string]*ipc.File)}
			for i := range n {
				name := filepath.Join(t.TempDir(), "numbered")
				require.NoError(t, os.WriteFile(name, []byte{byte(i)}, 0o600))
				f, err := os.Open(name)
				require.NoError(t, err)
				t.Cleanup(func() { f.Close() })
				file := ipc.NewFile(f)
				switch {
				case i == 0:
					out.File = file
				case i%2 == 0:
					out.More = append(out.More, file, ipc.File{}, file) // one that is there twice, and none
				default:
					out.Named[string(rune('a'+i))] = &file
				}
				names = append(names, name)
			}
			return out
		}
		requireNumbered := func(t *testing.T, sent, got parcel) {
			t.Helper()
			number := func(f ipc.File) int {
				var b [1]byte
				_, err := f.File().ReadAt(b[:], 0)
				require.NoError(t, err)
				return int(b[0])
			}
			require.Equal(t, 0, number(got.File))
			require.Len(t, got.More, len(sent.More))
			for i := 0; i < len(got.More); i += 3 {
				require.Equal(t, i/3*2+2, number(got.More[i]))
				require.True(t, got.More[i+1].IsZero())
				require.Equal(t, got.More[i], got.More[i+2])
			}
			require.Len(t, got.Named, len(sent.Named))
			for key, f := range got.Named {
				require.Equal(t, int([]rune(key)[0]-'a'), number(*f))
			}
			got.close()
		}
		for _, n := range []int{1, 2, 5, ipc.MaxFiles} {
			sent := numbered(n)
			for _, m := range []*ipc.Method[parcel, parcel]{parcelEcho, parcelJSON} {
				got, err := m.Call(t.Context(), w, sent)
				require.NoError(t, err)
				requireNumbered(t, sent, got)
			}
			sent.What = string(make([]byte, 300_000)) // which takes several writes, or pieces of a ring
			got, err := parcelEcho.Call(t.Context(), w, sent)
			require.NoError(t, err)
			requireNumbered(t, sent, got)
			sent.What = "a name"
			var futures []*ipc.Future[parcel]
			for range 20 {
				f, err := parcelEcho.Go(t.Context(), w, sent)
				require.NoError(t, err)
				futures = append(futures, f)
				_, err = rawEcho.Call(t.Context(), w, []byte("between"))
				require.NoError(t, err)
			}
			for _, f := range futures {
				got, err := f.Wait(t.Context())
				require.NoError(t, err)
				requireNumbered(t, sent, got)
			}
			st, err := fileItems.Open(t.Context(), w)
			require.NoError(t, err)
			for range 5 {
				require.NoError(t, st.Send(t.Context(), parcel{What: "without"}))
				require.NoError(t, st.Send(t.Context(), sent))
				got, err := st.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, "without", got.What)
				got, err = st.Receive(t.Context())
				require.NoError(t, err)
				requireNumbered(t, sent, got)
			}
			st.Close()
			count := 0
			for got, err := range fileList.Stream(t.Context(), w, sent) {
				require.NoError(t, err)
				requireNumbered(t, sent, got)
				count++
			}
			require.Equal(t, len(sent.What), count)
			require.NoError(t, fileUse.Notify(t.Context(), w, p.parcelOf("take", n)))
		}
		_, err := parcelEcho.Call(t.Context(), w, numbered(ipc.MaxFiles+1))
		require.ErrorContains(t, err, "more than 16 files")
		require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
		got, err := fileEcho.Call(t.Context(), w, p.File)
		require.NoError(t, err)
		got.Close()
		require.Nil(t, got.Take())
		_, err = fileEcho.Call(t.Context(), w, got)
		require.ErrorContains(t, err, "sent after Take or Close")
		none, err := fileEcho.Call(t.Context(), w, ipc.File{})
		require.NoError(t, err)
		require.True(t, none.IsZero())
		p.requireClosed(t)
	})
}

const probePatience = time.Minute

package broadcast

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/sealed"
)

// process is another process, at the end of a socket.
type process struct {
	cmd  *exec.Cmd
	conn *os.File
}

// startProcess starts a helper, which finds its end of the socket as descriptor 3.
func startProcess(tb testing.TB, name string, args ...string) *process {
	tb.Helper()
	if err := sealed.Supported(); err != nil {
		tb.Skip(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(tb, err)
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	exe, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(tb, cmd.Start())
	theirs.Close()
	p := &process{cmd, ours}
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		ours.Close()
	})
	return p
}

// helperConn is the helper's end.
func helperConn() *os.File { return os.NewFile(3, "conn") }

// exitWith ends a helper when the test process is gone. The helper reads from conn no more.
func exitWith(conn *os.File) {
	var b [1]byte
	conn.Read(b[:])
	os.Exit(0)
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
	return v
}

// sendFile passes a descriptor and a byte.
func sendFile(conn, f *os.File) error {
	return unix.Sendmsg(int(conn.Fd()), []byte{1}, unix.UnixRights(int(f.Fd())), nil, 0)
}

// receiveFile is its other end.
func receiveFile(conn *os.File) (*os.File, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(conn.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return nil, fmt.Errorf("no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

// receiveSegment maps what the other side has sent.
func receiveSegment(conn *os.File, open func(*os.File, ...Option) (*Segment, error)) (*Segment, error) {
	f, err := receiveFile(conn)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return open(f)
}

// readersIn starts a helper with n readers, and adds them to w.
func readersIn(tb testing.TB, w *Writer, seg *Segment, helper string, n int, opts []PeerOption, args ...string) (*process, []*Peer) {
	tb.Helper()
	p := startProcess(tb, helper, append([]string{fmt.Sprint(n)}, args...)...)
	require.NoError(tb, sendFile(p.conn, seg.File()))
	peers := make([]*Peer, n)
	for i := range peers {
		own, err := receiveSegment(p.conn, OpenReader)
		require.NoError(tb, err)
		peers[i], err = w.Add(own.Bytes(), opts...)
		require.NoError(tb, err)
		tb.Cleanup(func() {
			peers[i].Remove()
			own.Close()
		})
	}
	return p, peers
}

// helperReaders is the helper's end: it makes n readers.
func helperReaders(conn *os.File, n int, join Join) []*Reader {
	seg := must(receiveSegment(conn, Open))
	readers := make([]*Reader, n)
	for i := range readers {
		own := must(CreateReader())
		readers[i] = must(NewReader(seg.Bytes(), own.Bytes(), join))
		must(0, sendFile(conn, own.File()))
		own.CloseFile()
	}
	return readers
}

//go:build linux

package socket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// attach takes a worker over, for the time of the test.
func attach(t *testing.T, ref socket.Ref) *host {
	t.Helper()
	ctx := testContext(t)
	ch, err := socket.Attach(ctx, ref, socket.Connect{}, nil)
	require.NoError(t, err)
	h := &host{Channel: ch, t: t, ctx: ctx}
	ch.Links(func(l drivers.Link) { h.links = append(h.links, l) })
	t.Cleanup(func() {
		for _, l := range h.links {
			require.NoError(t, l.Close())
		}
		require.NoError(t, ch.Close())
	})
	return h
}

// adopting makes the orphans of the test's helpers its children, to be reaped.
func adopting(t *testing.T) {
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
}

// reap waits for an orphan.
func reap(t *testing.T, pid int) {
	t.Helper()
	for {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			require.NoError(t, err)
			return
		}
	}
}

// leftBy starts a host that leaves a worker in some way, and returns its reference.
// With kill the host is killed afterwards.
func leftBy(t *testing.T, how string, kill bool) socket.Ref {
	t.Helper()
	adopting(t)
	hostProcess, line := helper(t, "leave", how)
	ref, err := socket.ParseRef(line)
	require.NoError(t, err, line)
	if kill {
		require.NoError(t, hostProcess.Process.Kill())
		_ = hostProcess.Wait()
	}
	return ref
}

func aRef() socket.Ref {
	return socket.Ref{
		Path: "/tmp/x/s", Private: true, PID: 4711, StartTime: 1 << 40, Nonce: 1 << 63, UID: 1000, Program: "./counter",
		Codec: "cbor", MaxMessage: 1 << 20, Window: drivers.DefaultWindow, Timeouts: drivers.DefaultTimeouts(), Detached: true, Resume: 1000,
	}
}

func TestRefIsAValue(t *testing.T) {
	ref := aRef()
	text := ref.String()
	require.Regexp(t, `^tandem:[A-Za-z0-9_-]{50,300}$`, text)
	got, err := socket.ParseRef(text)
	require.NoError(t, err)
	require.Equal(t, ref, got)

	type holder struct{ Worker socket.Ref }
	b, err := json.Marshal(holder{ref})
	require.NoError(t, err)
	require.JSONEq(t, `{"Worker": "`+text+`"}`, string(b))
	var fromJSON, fromCBOR holder
	require.NoError(t, json.Unmarshal(b, &fromJSON))
	require.Equal(t, ref, fromJSON.Worker)
	b, err = ipc.CBOR.Append(nil, holder{ref})
	require.NoError(t, err)
	require.NoError(t, ipc.CBOR.Decode(b, &fromCBOR))
	require.Equal(t, ref, fromCBOR.Worker)
}

func TestBadRefs(t *testing.T) {
	good := aRef().String()
	for _, text := range []string{
		"", "tandem:", "tandem:AAAA", "tandem:!!", "x" + good, good[1:], good[:len(good)-3], good + "A", good + "=",
		"tandem:" + strings.Repeat("A", 5000), strings.Repeat("x", 1<<20),
	} {
		_, err := socket.ParseRef(text)
		require.ErrorIs(t, err, socket.ErrBadRef, "%.50q", text)
		require.Less(t, len(err.Error()), 300)
	}
	for name, spoil := range map[string]func(*socket.Ref){
		"path \"\"":            func(r *socket.Ref) { r.Path = "" },
		"path \"x\"":           func(r *socket.Ref) { r.Path = "x" },
		"path \"/xx":           func(r *socket.Ref) { r.Path = "/" + strings.Repeat("x", 200) },
		"process id 1":         func(r *socket.Ref) { r.PID = 1 },
		"process id -7":        func(r *socket.Ref) { r.PID = -7 },
		"start time 0":         func(r *socket.Ref) { r.StartTime = 0 },
		"nonce 0":              func(r *socket.Ref) { r.Nonce = 0 },
		"user -1":              func(r *socket.Ref) { r.UID = -1 },
		"codec":                func(r *socket.Ref) { r.Codec = "" },
		"program":              func(r *socket.Ref) { r.Program = strings.Repeat("x", 1000) },
		"largest message of 1": func(r *socket.Ref) { r.MaxMessage = 1 },
		"window of 1":          func(r *socket.Ref) { r.Window = 1 },
		"a negative limit":     func(r *socket.Ref) { r.Timeouts.Grace = -1 },
	} {
		r := aRef()
		spoil(&r)
		_, err := r.MarshalText()
		require.ErrorIs(t, err, socket.ErrBadRef)
		require.ErrorContains(t, err, name)
		_, err = socket.Attach(testContext(t), r, socket.Connect{}, nil)
		require.ErrorIs(t, err, socket.ErrBadRef)
	}
}

func TestDetachAndAttach(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	pid := h.Process().PID()
	ref := h.Ref()
	for range 20 {
		h.send(methodSink, 0, nil)
		h.works()
		left, err := h.Detach()
		require.NoError(t, err)
		require.Equal(t, ref, left)
		require.True(t, h.Detached())
		require.False(t, h.Connected())
		require.ErrorIs(t, h.Reconnect(h.ctx), ipc.ErrClosed)
		_, err = h.Detach()
		require.ErrorIs(t, err, ipc.ErrClosed)
		_, err = next(h.ctx, h.link())
		require.ErrorIs(t, err, ipc.ErrDisconnected)
		require.NoError(t, h.Close())

		h = attach(t, ref)
		require.Equal(t, pid, h.Process().PID())
		require.False(t, h.Detached())
		h.works()
	}
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx), "an attached worker can be left for a while, too")
	h.send(methodCount, 0, nil)
	require.Equal(t, uint64(20), h.recv().Tx, "it is the same worker, and got everything")
	require.Nil(t, h.Process().Exit())
	h.kill()
	require.Equal(t, ipc.ExitUnknown, h.Process().Exit().Code, "only its parent knows")
	require.ErrorContains(t, h.Process().Exit(), "how it has ended is not known")
	require.ErrorIs(t, h.Process().Signal(syscall.SIGKILL), os.ErrProcessDone)
	_, err := next(h.ctx, h.link())
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	var exit *ipc.ExitError
	require.ErrorAs(t, h.Reconnect(h.ctx), &exit)
	eventually(t, "its directory is gone", func() bool { return len(tmpFiles(t)) == 0 })
}

func TestDetachErrors(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	_, err := h.Detach()
	require.ErrorIs(t, err, ipc.ErrUnsupported)
	h.works()

	h = spawn(t, socket.Driver{Detached: true}, "echo", "")
	require.NoError(t, h.Disconnect())
	_, err = h.Detach()
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.False(t, h.Detached())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

// A worker that was left, or is to be kept alive, is there for the next host; any
// other ends with its host, connected or not.
func TestHostLeaves(t *testing.T) {
	for _, how := range []string{"detach", "keepalive"} {
		t.Run(how, func(t *testing.T) {
			ref := leftBy(t, how, true)
			h := attach(t, ref)
			h.works()
			h.kill()
			reap(t, ref.PID)
		})
	}
	for _, how := range []string{"disconnect", "die"} {
		t.Run(how, func(t *testing.T) {
			ref := leftBy(t, how, true)
			reap(t, ref.PID)
			eventually(t, "it has tidied up", func() bool { return len(tmpFiles(t)) == 0 })
		})
	}
}

// A living host that has disconnected lets another one have the worker.
func TestAttachWhileTheFirstHostLives(t *testing.T) {
	ref := leftBy(t, "disconnect", false)
	h := attach(t, ref)
	h.works()
	require.NoError(t, h.Disconnect())
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
	h.kill()
	eventually(t, "its parent, the first host, reaps it", func() bool { return process.StartTime(ref.PID) == 0 })
}

// A host that attached and ends without Detach takes the worker with it.
func TestAttachedHostDies(t *testing.T) {
	ref := leftBy(t, "detach", true)
	_, said := helper(t, "attach", ref.String()) // which ends at once
	require.Equal(t, "false <nil>", said)
	reap(t, ref.PID)
	eventually(t, "it has tidied up", func() bool { return len(tmpFiles(t)) == 0 })
}

func TestAttachToStaleRef(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	ref, err := h.Detach()
	require.NoError(t, err)
	require.NoError(t, h.Process().Signal(syscall.SIGKILL))
	<-h.Process().Done()
	require.Len(t, tmpFiles(t), 1, "nobody was there to tidy up")

	_, err = socket.Attach(h.ctx, ref, socket.Connect{}, nil)
	require.ErrorIs(t, err, socket.ErrStale)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.ErrorContains(t, err, fmt.Sprintf("there is no process %d", ref.PID))
	require.Empty(t, tmpFiles(t), "what the worker had left is removed")
}

// The process id of the reference is that of another process now, ours.
func TestAttachToRecycledPID(t *testing.T) {
	ref := listenAs(t, func(c net.Conn) { t.Error("a wrong peer was spoken to") })
	ref.StartTime--
	_, err := socket.Attach(testContext(t), ref, socket.Connect{}, nil)
	require.ErrorIs(t, err, socket.ErrStale)
	require.ErrorContains(t, err, fmt.Sprintf("process %d is another one", os.Getpid()))
}

// listenAs listens in this process and returns a reference that fits, but for the
// nonce.
func listenAs(t *testing.T, answer func(net.Conn)) socket.Ref {
	ref := aRef()
	ref.Path, ref.Private = filepath.Join(t.TempDir(), "s"), false
	ref.PID, ref.StartTime, ref.UID = os.Getpid(), process.StartTime(os.Getpid()), os.Geteuid()
	ln, err := net.Listen("unix", ref.Path)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			answer(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-served })
	return ref
}

func TestAttachToWrongPeers(t *testing.T) {
	other := spawn(t, socket.Driver{Path: filepath.Join(t.TempDir(), "s")}, "echo", "")
	require.NoError(t, other.Disconnect())
	for _, c := range []struct {
		name, want string
		ref        func(t *testing.T) socket.Ref
	}{
		{"garbage", "does not speak tandem", func(t *testing.T) socket.Ref {
			return listenAs(t, func(c net.Conn) { _, _ = c.Write([]byte("I am your worker, honestly")) })
		}},
		{"another run", "its nonce is", func(t *testing.T) socket.Ref {
			return listenAs(t, func(c net.Conn) { _, _ = c.Write(goodHello(t)); _, _ = drivers.ReadHello(c) })
		}},
		{"another codec", "codec mismatch", func(t *testing.T) socket.Ref {
			ref := listenAs(t, func(c net.Conn) { _, _ = c.Write(goodHello(t)); _, _ = drivers.ReadHello(c) })
			ref.Codec = "json"
			return ref
		}},
		{"queued twice", "queued", func(t *testing.T) socket.Ref {
			return listenAs(t, func(c net.Conn) {
				_, _ = c.Write(drivers.AppendQueued(drivers.AppendQueued(nil)))
				_, _ = drivers.ReadHello(c)
			})
		}},
		{"another process", "another process has taken its path", func(t *testing.T) socket.Ref {
			ref := other.Ref()
			ref.PID, ref.StartTime = os.Getpid(), process.StartTime(os.Getpid())
			return ref
		}},
		{"another user", "peer belongs to user", func(t *testing.T) socket.Ref {
			if os.Geteuid() != 0 {
				t.Skip("only root may even connect")
			}
			ref := listenAs(t, func(net.Conn) {})
			ref.UID = 12345
			return ref
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := socket.Attach(testContext(t), c.ref(t), socket.Connect{}, nil)
			require.ErrorIs(t, err, socket.ErrWrongPeer)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.NoError(t, other.Reconnect(other.ctx))
	other.works()
}

// The process of the reference lives, but does not listen any more.
func TestAttachWithoutSocket(t *testing.T) {
	ref := listenAs(t, func(net.Conn) {})
	ref.Path += "x"
	_, err := socket.Attach(testContext(t), ref, socket.Connect{Attempts: 2, Delay: time.Millisecond}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "after 2 attempts")

	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: ref.Path})
	require.NoError(t, err)
	ln.SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	_, err = socket.Attach(testContext(t), ref, socket.Connect{Attempts: 1}, nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.FileExists(t, ref.Path, "what is not known to be ours is left alone")
}

func TestAttachAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "ts-*")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	h := spawn(t, socket.Driver{Detached: true, Path: filepath.Join(dir, "s")}, "echo", "")
	require.NoError(t, h.Disconnect())
	exe := filepath.Join(dir, "test") // where nobody can run it
	b, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, b, 0o755))

	try := func(ref socket.Ref) string {
		cmd := command(t, "attach", ref.String()).Cmd
		cmd.Path, cmd.Dir = exe, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	ref := h.Ref()
	require.Contains(t, try(ref), "true tandem: socket: wrong peer: the worker belongs to user 0")
	ref.UID = nobody
	require.Contains(t, try(ref), "permission denied", "a reference that lies gets nobody in")
	require.NoError(t, os.Chmod(ref.Path, 0o777))
	require.Contains(t, try(ref), "true tandem: socket: peer belongs to user 0")
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestSecondHostIsQueued(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true, SecondHost: socket.Queue}, "echo", "")
	ref := h.Ref()
	type result struct {
		ch  *socket.Channel
		err error
	}
	wait := func(ctx context.Context) chan result {
		r := make(chan result, 1)
		go func() {
			ch, err := socket.Attach(ctx, ref, socket.Connect{Attempts: 1}, nil)
			r <- result{ch, err}
		}()
		return r
	}
	queued := func(n int) {
		t.Helper()
		eventually(t, "the attach waits", func() bool { return goroutinesIn("(*Channel).awaitTurn") == n })
	}
	first := wait(h.ctx)
	queued(1)
	impatient, giveUp := context.WithCancel(h.ctx)
	second := wait(impatient)
	queued(2)
	third := wait(h.ctx)
	queued(3)
	giveUp()
	require.ErrorIs(t, (<-second).err, context.Canceled)
	h.works()

	require.NoError(t, h.Disconnect())
	r := <-first
	require.NoError(t, r.err)
	require.Empty(t, third, "one at a time")
	var refused *ipc.RefusedError
	back := make(chan error, 1)
	go func() { back <- h.Reconnect(h.ctx) }()
	queued(2)
	_, err := r.ch.Detach()
	require.NoError(t, err)
	r = <-third
	require.NoError(t, r.err, "in the order in which they came")

	// No more than eight wait.
	ctx, cancel := context.WithCancel(h.ctx)
	var waiting []chan result
	for n := range 7 {
		waiting = append(waiting, wait(ctx))
		queued(n + 2)
	}
	_, err = socket.Attach(h.ctx, ref, socket.Connect{Attempts: 1}, nil)
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "8 wait for it")
	cancel()
	for _, w := range waiting {
		require.ErrorIs(t, (<-w).err, context.Canceled)
	}
	require.NoError(t, r.ch.Close(), "closing is leaving, too")
	require.NoError(t, <-back)
	h.works()
}

func TestSecondHostIsRefusedByAttach(t *testing.T) {
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	_, err := socket.Attach(h.ctx, h.Ref(), socket.Connect{Attempts: 1}, nil)
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "worker has a host", refused.Reason)
	h.works()
}

// What a killed worker has left goes with the next start; nothing else does.
func TestCleanUp(t *testing.T) {
	old := time.Now().Add(-time.Hour - time.Minute)
	private := func(n int) string { return fmt.Sprintf("tandem-%026d", n) }
	make := func(name string, files ...string) string {
		dir := filepath.Join(os.TempDir(), name)
		require.NoError(t, os.Mkdir(dir, 0o700))
		t.Cleanup(func() { os.RemoveAll(dir) })
		for _, f := range files {
			path := filepath.Join(dir, f)
			if f != "s" {
				require.NoError(t, os.WriteFile(path, nil, 0o600))
				continue
			}
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
			require.NoError(t, err)
			ln.SetUnlinkOnClose(false)
			require.NoError(t, ln.Close())
			require.NoError(t, os.Chtimes(path, old, old))
		}
		require.NoError(t, os.Chtimes(dir, old, old))
		return dir
	}
	dead := leftBy(t, "detach", true)
	require.NoError(t, syscall.Kill(dead.PID, syscall.SIGKILL))
	reap(t, dead.PID)
	require.NoError(t, os.Chtimes(dead.Path, old, old))

	live := spawn(t, socket.Driver{Detached: true}, "echo", "")
	s := filepath.Join(filepath.Dir(live.Address()), "s")
	made, err := os.Lstat(s)
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(s, old, old))
	gone := []string{make(private(1), "s"), make(private(2)), filepath.Dir(dead.Path)}
	fresh := make(private(3), "s")
	now := time.Now()
	require.NoError(t, os.Chtimes(filepath.Join(fresh, "s"), now, now))
	kept := []string{fresh, make(private(4), "x"), make("tandem-x5", "s"), make(private(6), "s", "x"), make(private(7), "s")}
	require.NoError(t, os.Chmod(kept[4], 0o755))

	socket.CleanUpAgain()
	spawn(t, socket.Driver{Detached: true}, "echo", "").works()
	for _, dir := range gone {
		require.NoDirExists(t, dir)
	}
	for _, dir := range kept {
		require.DirExists(t, dir)
	}
	live.works()
	require.NoError(t, live.Disconnect())
	require.NoError(t, live.Reconnect(live.ctx))
	live.works()
	require.NoError(t, os.Chtimes(s, made.ModTime(), made.ModTime())) // by which the worker knows it
}

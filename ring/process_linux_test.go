package ring

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/fdpass"
)

// link is one process's end of two segments that are shared with another one.
type link struct {
	*Link
	p   *Producer
	c   *Consumer
	cmd *exec.Cmd
}

// startHelper starts helper name in another process, which makes a segment of its
// own, and joins the two.
func startHelper(tb testing.TB, name string, ringSize int, wait Wait, args ...string) *link {
	tb.Helper()
	ours, theirs, err := Socketpair()
	require.NoError(tb, err)
	exe, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(exe, append([]string{strconv.Itoa(ringSize), strconv.Itoa(int(wait))}, args...)...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(tb, cmd.Start())
	theirs.Close()
	l, err := newLink(ours, ringSize, wait)
	require.NoError(tb, err)
	l.cmd = cmd
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		l.Close()
	})
	return l
}

// helperLink is the helper's end.
func helperLink(args []string) (*link, []string) {
	size, _ := strconv.Atoi(args[0])
	wait, _ := strconv.Atoi(args[1])
	conn, err := fdpass.Conn(os.NewFile(3, "conn"))
	var l *link
	if err == nil {
		l, err = newLink(conn, size, Wait(wait))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
	go func() { // the test process is gone
		<-l.Done()
		os.Exit(0)
	}()
	return l, args[2:]
}

func newLink(conn *net.UnixConn, ringSize int, wait Wait) (*link, error) {
	l, err := Exchange(context.Background(), conn, ringSize, Prefault())
	if err != nil {
		return nil, err
	}
	l.Producer.SetWait(wait)
	l.Consumer.SetWait(wait)
	return &link{Link: l, p: l.Producer, c: l.Consumer}, nil
}

// next is a blocking Next.
func (l *link) next() Record {
	for {
		r, ok, err := l.c.Next()
		if err != nil {
			panic(err)
		}
		if ok {
			return r
		}
		if err := l.c.Wait(context.Background()); err != nil {
			panic(err)
		}
	}
}

func init() {
	// echo sends every record back.
	helpers["echo"] = func(args []string) {
		l, _ := helperLink(args)
		for {
			r, ok, err := l.c.Next()
			if err != nil {
				panic(err)
			}
			if ok {
				if err := l.p.Send(context.Background(), r.Tag, r.Data, nil); err != nil {
					panic(err)
				}
				continue
			}
			if !l.c.Spin() {
				if err := l.c.Wait(context.Background()); err != nil {
					panic(err)
				}
			}
		}
	}
	// oneline bounces one word, as fast as memory allows.
	helpers["oneline"] = func(args []string) {
		l, _ := helperLink(args)
		in, out := u64At(l.theirs.Bytes(), ControlSize), u64At(l.ours.Bytes(), ControlSize)
		for n := uint64(1); ; n++ {
			bounceWait(in, n)
			atomic.StoreUint64(out, n)
		}
	}
	// sink reads, and answers every record with tag 1.
	helpers["sink"] = func(args []string) {
		l, _ := helperLink(args)
		var sum uint64
		for {
			r := l.next()
			if len(r.Data) >= 8 {
				sum += binary.NativeEndian.Uint64(r.Data)
			}
			if r.Tag == 1 {
				if err := l.p.Write(1, binary.NativeEndian.AppendUint64(nil, sum)); err != nil {
					panic(err)
				}
			}
		}
	}
	// leasesink leases every record, and releases it two records later.
	helpers["leasesink"] = func(args []string) {
		l, _ := helperLink(args)
		var held [2]Lease
		for i := 0; ; i++ {
			r := l.next()
			tag := r.Tag
			held[i%2].Release()
			held[i%2] = l.c.Lease()
			if tag == 1 {
				if err := l.p.Write(1, nil); err != nil {
					panic(err)
				}
			}
		}
	}
	// joinsink joins messages, and answers every one with tag 1.
	helpers["joinsink"] = func(args []string) {
		l, _ := helperLink(args)
		for {
			m, ok, err := l.c.Message()
			if err == nil && !ok {
				err = l.c.Wait(context.Background())
			}
			if err == nil && ok && m.Tag == 1 {
				err = l.p.Write(1, nil)
			}
			if err != nil {
				panic(err)
			}
		}
	}
	// source sends numbers until it is killed.
	helpers["source"] = func(args []string) {
		l, _ := helperLink(args)
		var b [8]byte
		for n := uint64(0); ; n++ {
			binary.NativeEndian.PutUint64(b[:], n)
			if err := l.p.Send(context.Background(), 7, b[:], nil); err != nil {
				panic(err)
			}
		}
	}
	// idle joins, and then does nothing.
	helpers["idle"] = func(args []string) {
		l, _ := helperLink(args)
		l.p.Write(0, nil)
		select {}
	}
}

func bounceWait(word *uint64, n uint64) {
	for atomic.LoadUint64(word) != n {
	}
}

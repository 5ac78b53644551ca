//go:build unix

package worker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ring/fdpass"
	"github.com/tandemipc/tandem/worker"
)

const successorProgram = "tandem-test-successor"

func init() { programs[successorProgram] = runSuccessor }

// runSuccessor begins to take the socket of argument 2 over, and dies at the step of argument 3.
func runSuccessor() error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: os.Args[2], Net: "unix"})
	if err != nil {
		return err
	}
	defer fmt.Println("ready")
	if os.Args[3] == "connected" {
		return nil
	}
	b, err := successorHello()
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil || os.Args[3] == "said" {
		return err
	}
	from := fdpass.Reader{Conn: conn}
	if _, err := drivers.ReadHello(&from); err != nil || os.Args[3] == "passed" {
		return err
	}
	return unix.Listen(int(from.Files[0].Fd()), 100)
}

func successorHello() ([]byte, error) {
	return drivers.AppendHello(nil, drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: "successor", ByteOrder: drivers.ByteOrderMark,
		MaxMessage: drivers.DefaultMaxMessage, Window: drivers.DefaultWindow, PID: os.Getpid(),
	})
}

// Whenever a successor dies, the service goes on, and clients see it as before.
func TestServiceSuccessorDies(t *testing.T) {
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		c := dial(t, d, s.name)
		for _, step := range []string{"connected", "said", "passed", "listens"} {
			t.Run(step, func(t *testing.T) {
				p := exec.Command(link(t, successorProgram), d.Name(), s.name, step)
				out, err := p.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Equal(t, "ready\n", string(out))
				_, err = add.Call(t.Context(), c, pair{1, 2})
				require.NoError(t, err)
				eventually(t, "clients find the service", func() bool {
					other := dial(t, d, s.name)
					defer other.Close()
					_, err := add.Call(t.Context(), other, pair{1, 2})
					require.NoError(t, err)
					return other.Peer().PID == s.pid()
				})
			})
		}
		next := startService(t, d, s.name, "takeover")
		require.Equal(t, next.pid(), dial(t, d, s.name).Peer().PID)
		require.Equal(t, "served <nil>\n", s.line())
	})
}

// Whenever the process dies from which a listener is taken over, the successor listens.
func TestServicePredecessorDies(t *testing.T) {
	for _, d := range serviceDrivers {
		for _, step := range []string{"accepted", "heard", "said half", "passed", "confirmed"} {
			t.Run(d.Name()+"/"+step, func(t *testing.T) {
				name := socketPath(t)
				ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
				require.NoError(t, err)
				ln.SetUnlinkOnClose(false)
				died := make(chan error, 1)
				go func() { died <- dieAsPredecessor(ln, step) }()
				l, err := d.Listen(name, drivers.ListenConfig{TakeOver: true})
				require.NoError(t, within(t, died))
				require.NoError(t, err)
				s := worker.NewServer()
				handleTest(s)
				ctx, stop := context.WithCancel(t.Context())
				served := make(chan error)
				go func() { served <- s.ServeListener(ctx, l) }()
				c := dial(t, d, name)
				_, err = add.Call(t.Context(), c, pair{1, 2})
				require.NoError(t, err)
				require.NoError(t, c.Close())
				stop()
				require.NoError(t, <-served)
				_, err = os.Lstat(name)
				require.ErrorIs(t, err, os.ErrNotExist)
			})
		}
	}
}

// dieAsPredecessor gives a listener to a successor, and all up at a step.
func dieAsPredecessor(ln *net.UnixListener, step string) error {
	defer ln.Close()
	var conn *net.UnixConn
	for first := []byte{0}; conn == nil; { // others only look who listens
		c, err := ln.AcceptUnix()
		if err != nil {
			return err
		}
		defer c.Close()
		if n, _ := c.Read(first); n > 0 {
			conn = c
		}
	}
	if step == "accepted" {
		return nil
	}
	prelude := make([]byte, 15)
	if _, err := io.ReadFull(conn, prelude); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, binary.LittleEndian.Uint16(prelude[11:]))); err != nil || step == "heard" {
		return err
	}
	b, err := successorHello()
	if err != nil {
		return err
	}
	if step == "said half" {
		_, err := conn.Write(b[:len(b)/2])
		return err
	}
	f, err := ln.File()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fdpass.Send(conn, b, f); err != nil || step == "passed" {
		return err
	}
	return drivers.ReadReady(conn)
}

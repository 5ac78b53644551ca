//go:build linux

package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// socketRows are about a stream that is cut or malformed, and about who connects.
var socketRows = onSocket(
	row{name: "stream: a frame of 4 GiB", act: began(func(p *peer) { p.writes(prefix(-1, 1)) }), end: protocol},
	row{name: "stream: bytes that should be 0", act: began(func(p *peer) { p.writes(bytes.Repeat([]byte{0xff}, 64)) }), end: protocol},
	row{name: "stream: a wrong end byte", act: began(func(p *peer) {
		p.writes(append(append(prefix(4000, byte(drivers.KindResponse)), make([]byte, 4000)...), 2))
	}), end: protocol},
	row{name: "stream: frames that are given up, for ever", act: func(p *peer) error {
		b := bytes.Repeat(append(prefix(3000, byte(drivers.KindResponse)), make([]byte, 3001)...), 20)
		for p.writes(b) {
		}
		return nil
	}, end: timeout},
	row{name: "stream: large frames that are given up, for ever", act: func(p *peer) error {
		b := append(prefix(maxMessage, byte(drivers.KindResponse)), make([]byte, maxMessage+1)...)
		for p.writes(b) {
		}
		return nil
	}, end: timeout},
	row{name: "stream: the largest frame, and only its begin", act: func(p *peer) error {
		p.writes(prefix(maxMessage, byte(drivers.KindResponse)))
		return neverAnswer(p)
	}, end: timeout},
	row{name: "stream: byte by byte", act: func(p *peer) error {
		for range 5 {
			if !p.dribbleFrame(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Payload: make([]byte, 3000)}) {
				break
			}
		}
		return p.probe()
	}, serves: true, end: right},
	row{name: "stream: half closed", act: began(func(p *peer) { _ = p.control.CloseWrite() }), end: gone},
	// Only who sends something after that is told.
	row{name: "stream: closed for reading", act: began(func(p *peer) { _ = p.control.CloseRead() }), end: gone, also: []string{timeout}, either: true},
	row{name: "stream: closed with a request unread", act: began(func(p *peer) { p.control.Close() }), end: gone},
	row{name: "stream: cut in a prefix", act: cut(5), end: gone},
	row{name: "stream: cut in a header", act: cut(12), end: gone},
	row{name: "stream: cut in a payload", act: cut(2000), end: gone},
	row{name: "stream: cut before the end byte", act: cut(8 + 4000), end: gone},
	row{name: "stream: says that it leaves for good", act: harmless(func(p *peer) { p.sendRaw(0x40, make([]byte, 8)) }), serves: true, end: right},
	row{name: "stream: says more when it leaves for good", act: began(func(p *peer) { p.sendRaw(0x40, make([]byte, 9)) }), end: protocol},

	row{name: "handover: descriptors of all kinds", role: "host", act: handOver(func(p *peer, pass func(...int)) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		datagram, _, err := fdpass.Socketpair(syscall.SOCK_DGRAM)
		if err != nil {
			return err
		}
		file, err := datagram.File()
		if err != nil {
			return err
		}
		for range 3 {
			pass()
			pass(int(r.Fd()))
			pass(int(w.Fd()), int(r.Fd()))
			pass(int(file.Fd()))
			pass(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}
		return nil
	}), serves: true, end: right},
	row{name: "handover: hundreds of connections that say nothing", role: "host", act: handOver(func(p *peer, pass func(...int)) error {
		for range 300 {
			conn, theirs, err := fdpass.Socketpair(syscall.SOCK_STREAM)
			if err != nil {
				return err
			}
			pass(int(theirs.Fd()))
			theirs.Close()
			p.held = append(p.held, conn)
		}
		return nil
	}), serves: true, end: right},
	row{name: "handover: ends", role: "host", act: harmless(func(p *peer) { p.handover.Close() }), serves: true, end: right},
	again("honestly", right, func(p *peer, conn *net.UnixConn) { _, _ = conn.Write(p.helloBytes()) }),
	again("with silence", timeout, func(*peer, *net.UnixConn) {}),
	again("by hanging up", gone, func(_ *peer, conn *net.UnixConn) { conn.Close() }),
	again("with garbage", impostor, func(_ *peer, conn *net.UnixConn) { _, _ = conn.Write(make([]byte, 64)) }),
	again("with a refusal", refused, func(_ *peer, conn *net.UnixConn) { _, _ = conn.Write(drivers.AppendRefusal(nil, "no")) }),
	again("as another run", impostor, func(p *peer, conn *net.UnixConn) {
		h := p.hello()
		h.Nonce++
		b, _ := drivers.AppendHello(nil, h)
		_, _ = conn.Write(b)
	}),
	again("as another process", impostor, func(p *peer, conn *net.UnixConn) {
		h := p.hello()
		h.PID, h.StartTime = os.Getppid(), process.StartTime(os.Getppid())
		b, _ := drivers.AppendHello(nil, h)
		_, _ = conn.Write(b)
	}),
	again("that it is queued, for ever", impostor, func(_ *peer, conn *net.UnixConn) {
		for {
			if _, err := conn.Write(drivers.AppendQueued(nil)); err != nil {
				return
			}
		}
	}),
	row{name: "path: hundreds of connections that say nothing", role: "host", path: true, act: func(p *peer) error {
		for range 300 {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.path})
			if err != nil {
				return err
			}
			p.held = append(p.held, conn)
		}
		return p.probe()
	}, serves: true, end: right},
	row{name: "path: connections that say anything", role: "host", path: true, act: func(p *peer) error {
		hello := p.helloBytes()
		for i := range 300 {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.path})
			if err != nil {
				return err
			}
			b := bytes.Clone(hello)
			switch i % 3 {
			case 0: // a second host
			case 1:
				b = b[:rand.IntN(len(b))]
			case 2:
				b[rand.IntN(len(b))] ^= byte(1 + rand.IntN(255))
			}
			_, _ = conn.Write(b)
			conn.Close()
		}
		return p.probe()
	}, serves: true, end: right},
)

func onSocket(rows ...row) []row {
	for i := range rows {
		rows[i].driver = "socket"
	}
	return rows
}

// writes writes to the link, and reports whether anybody hears it.
func (p *peer) writes(b []byte) bool {
	p.sending.Lock()
	defer p.sending.Unlock()
	_, err := p.control.Write(b)
	return err == nil
}

// dribbleFrame writes a frame in writes of one byte.
func (p *peer) dribbleFrame(f drivers.Frame) bool {
	p.sending.Lock()
	defer p.sending.Unlock()
	body := append(f.AppendHeader(nil), f.Payload...)
	for _, c := range append(append(prefix(len(body), f.Tag()), body...), 1) {
		if _, err := p.control.Write([]byte{c}); err != nil {
			return false
		}
	}
	return true
}

// cut sends so many bytes of an answer, and hangs up.
func cut(n int) func(*peer) error {
	return func(p *peer) error {
		f, err := p.request()
		if err != nil {
			return err
		}
		b := binary.LittleEndian.AppendUint64(prefix(4000, byte(drivers.KindResponse)), f.Tx)
		b = append(append(b, make([]byte, 4000-8)...), 1)
		_, err = p.control.Write(b[:n])
		p.control.Close()
		return err
	}
}

// handOver misuses the socket over which a host passes connections.
func handOver(f func(p *peer, pass func(fds ...int)) error) func(*peer) error {
	return func(p *peer) error {
		failed := error(nil)
		pass := func(fds ...int) {
			var rights []byte
			if len(fds) > 0 {
				rights = unix.UnixRights(fds...)
			}
			if _, _, err := p.handover.WriteMsgUnix([]byte{0}, rights, nil); err != nil {
				failed = fmt.Errorf("pass %d descriptors: %w", len(fds), err)
			}
		}
		if err := f(p, pass); err != nil || failed != nil {
			return fmt.Errorf("%w, %w", err, failed)
		}
		return p.probe()
	}
}

// again is a row of a hostile worker that answers in this way when its host connects again.
func again(how, class string, answer func(*peer, *net.UnixConn)) row {
	return row{name: "again: answers " + how, role: "worker", act: func(p *peer) error {
		go func() {
			for {
				from := fdpass.Reader{Conn: p.handover}
				if _, err := from.Read(make([]byte, 1)); err != nil || len(from.Files) != 1 {
					return
				}
				conn, err := net.FileConn(from.Files[0])
				from.Close()
				if err != nil {
					return
				}
				p.held = append(p.held, conn.(*net.UnixConn))
				answer(p, conn.(*net.UnixConn))
			}
		}()
		return p.probe()
	}, serves: true, end: right, again: class}
}

//go:build linux

package hostile

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
)

// helloRows are about what comes before a link.
var helloRows = slicesOf(
	[]row{
		{name: "hello: none", hello: silent, start: timeout},
		{name: "hello: hangs up", hello: func(p *peer) error { return p.control.Close() }, start: gone},
		{name: "hello: half a hello, and silence", hello: func(p *peer) error { return p.write(p.helloBytes()[:30]) }, start: timeout},
		{name: "hello: half a hello, and the end", hello: func(p *peer) error {
			if err := p.write(p.helloBytes()[:30]); err != nil {
				return err
			}
			return p.control.Close()
		}, start: gone},
		{name: "hello: no magic", hello: bytesThenSilence([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")), start: protocol},
		{name: "hello: zeros", hello: bytesThenSilence(make([]byte, 64<<10)), start: protocol},
		{name: "hello: size beyond the limit", hello: bytesThenSilence(prelude(drivers.ProtocolVersion, 1, 65535)), start: protocol},
		{name: "hello: unknown kind", hello: bytesThenSilence(prelude(drivers.ProtocolVersion, 99, 0)), start: protocol},
		{name: "hello: body of garbage", hello: bytesThenSilence(append(prelude(drivers.ProtocolVersion, 1, 4096), bytes.Repeat([]byte{0xff}, 4096)...)), start: protocol},
		{name: "hello: body of nested arrays", hello: bytesThenSilence(append(prelude(drivers.ProtocolVersion, 1, 4096), bytes.Repeat([]byte{0x9f}, 4096)...)), start: protocol},
		{name: "hello: body that claims a long string", hello: bytesThenSilence(append(prelude(drivers.ProtocolVersion, 1, 11), 0xa1, 1, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)), start: protocol},
		{name: "hello: empty body", hello: bytesThenSilence(prelude(drivers.ProtocolVersion, 1, 0)), start: protocol},
		{name: "hello: other version", hello: bytesThenSilence(prelude(7, 1, 0)), start: mismatch},
		{name: "hello: refusal", hello: bytesThenSilence(drivers.AppendRefusal(nil, "no")), start: refused},
		{name: "hello: refusal of garbage", hello: bytesThenSilence(drivers.AppendRefusal(nil, strings.Repeat("\xff\x00\x1b[2J", 1000))), start: refused},
		{name: "hello: byte by byte", hello: func(p *peer) error {
			return p.link(func() error { return p.dribble(p.helloBytes()) })
		}, links: true, serves: true, act: (*peer).probe, end: right},
		{name: "hello: twice", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			return p.write(p.helloBytes())
		}, end: protocol},
		{name: "confirmation: none", confirms: true, hello: func(p *peer) error { return p.link(p.sayHello) }, driver: "shm", start: timeout},
		{name: "confirmation: a hello", hello: func(p *peer) error { return p.confirm(p.helloBytes()) }, confirms: true, driver: "shm", start: protocol},
		{name: "confirmation: garbage", hello: func(p *peer) error { return p.confirm(make([]byte, 64<<10)) }, confirms: true, driver: "shm", start: protocol},
		{name: "confirmation: a refusal", hello: func(p *peer) error { return p.confirm(drivers.AppendRefusal(nil, "no")) }, confirms: true, driver: "shm", start: refused},
		{name: "confirmation: the end", hello: func(p *peer) error {
			if err := p.link(p.sayHello); err != nil {
				return err
			}
			return p.control.Close()
		}, confirms: true, driver: "shm", start: gone},
		{name: "confirmation: twice", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			return p.write(drivers.AppendReady(nil))
		}, driver: "shm", end: protocol},
		{name: "hello: queued for ever", hello: bytesThenSilence(bytes.Repeat(drivers.AppendQueued(nil), 1000)), start: protocol},
		{name: "hello: a descriptor with each byte", hello: func(p *peer) error {
			return p.floodDescriptors(p.helloBytes())
		}, driver: "shm", start: protocol},
		{name: "hello: descriptors that nobody asks for", hello: func(p *peer) error {
			return p.link(func() error { return p.floodDescriptors(p.helloBytes()) })
		}, links: true, driver: "socket", serves: true, act: (*peer).probe, end: right},
	},
	disagree("driver", mismatch, func(h *drivers.Hello) { h.Driver = "none" }),
	disagree("empty driver", mismatch, func(h *drivers.Hello) { h.Driver = "" }),
	disagree("codec", mismatch, func(h *drivers.Hello) { h.Codec = strings.Repeat("c", 3000) }),
	disagree("byte order", mismatch, func(h *drivers.Hello) { h.ByteOrder ^= 0xffff }),
	disagree("layout", mismatch, func(h *drivers.Hello) { h.Layout = -1 }),
	disagree("largest message 0", protocol, func(h *drivers.Hello) { h.MaxMessage = 0 }),
	disagree("largest message negative", protocol, func(h *drivers.Hello) { h.MaxMessage = math.MinInt }),
	disagree("window 0", protocol, func(h *drivers.Hello) { h.Window = 0 }),
	disagree("window negative", protocol, func(h *drivers.Hello) { h.Window = math.MinInt }),
	agree("largest message huge", func(h *drivers.Hello) { h.MaxMessage = math.MaxInt }),
	agree("window huge", func(h *drivers.Hello) { h.Window = math.MaxInt }),
	agree("process id and nonce forged", func(h *drivers.Hello) { h.PID, h.StartTime, h.Nonce = math.MinInt, math.MaxUint64, 0 }),
	agree("process id of the honest side", func(h *drivers.Hello) { h.PID = os.Getppid() }),
	agree("driver's own data", func(h *drivers.Hello) { h.DriverData = bytes.Repeat([]byte{0xff}, 3000) }),
)

func slicesOf(first []row, more ...row) []row { return append(first, more...) }

// disagree is a hello with a field that ends the start.
func disagree(what, class string, change func(*drivers.Hello)) row {
	return row{name: "hello: " + what, hello: func(p *peer) error { return p.changed(change) }, start: class}
}

// agree is a hello with a field that does no harm.
func agree(what string, change func(*drivers.Hello)) row {
	return row{name: "hello: " + what, hello: func(p *peer) error {
		return p.link(func() error { return p.changed(change) })
	}, links: true, serves: true, act: (*peer).probe, end: right}
}

func (p *peer) changed(change func(*drivers.Hello)) error {
	h := p.hello()
	change(&h)
	return p.say(h)
}

func silent(*peer) error { return nil }

// bytesThenSilence says b, with a segment if the driver needs one.
func bytesThenSilence(b []byte) func(*peer) error {
	return func(p *peer) error {
		_ = p.sayBytes(b) // the honest side may hang up at the first of them
		return nil
	}
}

// write writes to the control socket; the honest side may have hung up.
func (p *peer) write(b []byte) error {
	_, _ = p.control.Write(b)
	return nil
}

// confirm says a hello, and b where the confirmation belongs.
func (p *peer) confirm(b []byte) error {
	if err := p.link(p.sayHello); err != nil {
		return err
	}
	return p.write(b)
}

// helloBytes is an honest hello.
func (p *peer) helloBytes() []byte {
	b, err := drivers.AppendHello(nil, p.hello())
	if err != nil {
		panic(err)
	}
	return b
}

// dribble says a hello in writes of one byte, with the segment in the first.
func (p *peer) dribble(b []byte) error {
	if err := p.sayBytes(b[:1]); err != nil {
		return err
	}
	for i := 1; i < len(b); i++ {
		if _, err := p.control.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// manyDescriptors returns as many descriptors as the kernel passes at a time, all of a file
// that the caller closes.
func manyDescriptors() (null *os.File, fds []int, err error) {
	if null, err = os.Open(os.DevNull); err != nil {
		return nil, nil, err
	}
	fds = make([]int, 200)
	for i := range fds {
		fds[i] = int(null.Fd())
	}
	return null, fds, nil
}

// floodDescriptors says b with as many descriptors as the kernel takes with each byte.
func (p *peer) floodDescriptors(b []byte) error {
	null, fds, err := manyDescriptors()
	if err != nil {
		return err
	}
	defer null.Close()
	for i := range b {
		if _, _, err := p.control.WriteMsgUnix(b[i:i+1], unix.UnixRights(fds...), nil); err != nil {
			return nil // the honest side has hung up, or the kernel has enough
		}
	}
	return nil
}

// prelude is that of a hello.
func prelude(version, kind, size uint16) []byte {
	b := []byte("TANDEM\r\n")
	for _, n := range []uint16{version, kind, size, 0} {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return b
}

//go:build linux

package hostile

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// ringRows are about what a peer can write into its memory, and what memory it can pass.
var ringRows = onShm(slicesOf(
	[]row{
		{name: "segment: none", hello: func(p *peer) error { return p.write(p.helloBytes()) }, start: protocol},
		{name: "segment: two", hello: func(p *peer) error {
			if err := p.segment(); err != nil {
				return err
			}
			fd := int(p.ours.File().Fd())
			_, _, err := p.control.WriteMsgUnix(p.helloBytes(), unix.UnixRights(fd, fd), nil)
			return err
		}, start: protocol},
		{name: "segment: a pipe", hello: pass(func() (*os.File, error) {
			r, _, err := os.Pipe()
			return r, err
		}), start: protocol},
		{name: "segment: a directory", hello: pass(func() (*os.File, error) { return os.Open("/") }), start: protocol},
		{name: "segment: a file", hello: pass(func() (*os.File, error) { return os.Open("/proc/self/exe") }), start: protocol},
		{name: "segment: not sealed", hello: pass(memfd(segmentSize, 0)), start: protocol},
		{name: "segment: can shrink", hello: pass(memfd(segmentSize, unix.F_SEAL_GROW|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)), start: protocol},
		{name: "segment: can be written", hello: pass(memfd(segmentSize, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)), start: protocol},
		{name: "segment: can be sealed further", hello: pass(memfd(segmentSize, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_FUTURE_WRITE)), start: protocol},
		{name: "segment: empty", hello: pass(memfd(0, allSeals)), start: protocol},
		{name: "segment: of an odd size", hello: pass(memfd(12345, allSeals)), start: protocol},
		{name: "segment: of an enormous size", hello: pass(memfd(1<<45, allSeals)), start: protocol},
		{name: "segment: of a large size, and nothing in it", hello: pass(memfd(ring.ControlSize+ring.MaxSize, allSeals)), start: protocol},
		{name: "segment: zeros", hello: pass(memfd(segmentSize, allSeals)), start: protocol},
		header("magic", offMagic, 0x1234),
		header("version", offVersion, 99),
		header("size", offSize, ringSize/2),
		header("size of the most", offSize, math.MaxUint64),
		header("start that is not aligned", offStart, 4),
		{name: "segment: changes its header once it is linked", act: func(p *peer) error {
			f, err := p.request()
			if err != nil {
				return err
			}
			for off := offMagic; off <= offStart; off += 8 {
				p.put(off, math.MaxUint64)
			}
			p.reply(f)
			go p.serve()
			return p.probe()
		}, end: right},
		{name: "segment: tries to undo what the kernel keeps", act: func(p *peer) error {
			if err := p.breakOut(); err != nil {
				return err
			}
			return p.probe()
		}, serves: true, end: right},

		record("with a length of 0", 0x01<<40, right),
		record("of the largest length", 0x01<<40|math.MaxUint32, protocol),
		record("longer than half the ring", 0x01<<40|ringSize/2, protocol),
		record("longer than the rest of the ring", 0x01<<40|(ringSize/2-8), ""),
		record("that is not ready", 0x80<<40|8, protocol),
		record("with unknown flags", 0xf1<<40|8, protocol),
		record("that is padding of the wrong length", 0x03<<40|8, protocol),
		record("that is padding with a tag", 0x03<<40|1<<32|8, protocol),
		record("that continues nothing", 0x09<<40|1<<32|8, protocol),
		record("that begins a message of 0 bytes", 0x05<<40|1<<32, protocol),
		record("with a wrong stamp", 0x5555<<48|0x01<<40|8, protocol),

		{name: "message: begun and never finished", act: harmless(func(p *peer) { p.begin(maxMessage, 8) }), serves: true, end: right},
		{name: "message: begun again and again", act: harmless(func(p *peer) {
			for i := range 5000 {
				p.begin(maxMessage-uint64(i)*200, 8)
			}
		}), serves: true, end: right},
		{name: "message: too large", act: began(func(p *peer) { p.begin(maxMessage+1, 8) }), end: protocol},
		{name: "message: of the largest length", act: began(func(p *peer) { p.begin(math.MaxUint64, 8) }), end: protocol},
		{name: "message: more pieces than announced", act: began(func(p *peer) {
			p.begin(100, 50)
			p.record(2, ready|more|cont, make([]byte, 60))
		}), end: protocol},
		{name: "message: fewer bytes than announced", act: began(func(p *peer) {
			p.begin(100, 50)
			p.record(2, ready|cont, make([]byte, 10))
		}), end: protocol},
		{name: "message: pieces with another tag", act: began(func(p *peer) {
			p.begin(100, 50)
			p.record(3, ready|cont, make([]byte, 50))
		}), end: protocol},
		{name: "message: empty pieces for ever", act: func(p *peer) error {
			// The honest side goes on with what it has to do. It is not at the mercy of
			// these pieces to end.
			p.begin(100, 50)
			p.storm(2, ready|more|cont, nil)
			return nil
		}, end: timeout},
		{name: "message: begun and given up for ever", act: func(p *peer) error {
			p.storm(2, ready|more, binary.LittleEndian.AppendUint64(nil, 100))
			return nil
		}, end: timeout},

		position("back", func(now uint64) uint64 { return now - 8 }),
		position("far back", func(now uint64) uint64 { return now - 1<<40 }),
		position("beyond the ring", func(now uint64) uint64 { return now + 1<<40 }),
		position("the most", func(uint64) uint64 { return math.MaxUint64 - 7 }),
		position("not aligned", func(now uint64) uint64 { return now | 4 }),
		{name: "position: never moves", end: timeout},

		{name: "words: that wait, at random", act: harmless(func(p *peer) {
			for range 200_000 {
				p.put32(offDataWaiting, rand.Uint32())
				p.put32(offSpaceWaiting, rand.Uint32())
			}
		}), serves: true, end: right},
		{name: "words: bells, at random", act: harmless(func(p *peer) {
			for range 200_000 {
				p.put32(offDataBell, rand.Uint32())
				p.put32(offSpaceBell, rand.Uint32())
			}
		}), serves: true, end: right},
		{name: "words: a storm of wake-ups", act: harmless(func(p *peer) {
			for range 20_000 {
				p.put32(offDataBell, rand.Uint32())
				p.put32(offSpaceBell, rand.Uint32())
				wake(p.ours.Bytes()[offDataBell:])
				wake(p.ours.Bytes()[offSpaceBell:])
			}
		}), serves: true, end: right},
		{name: "words: requests that change while they are read", act: harmless((*peer).changeRequests), serves: true, end: right},
		{name: "words: never wakes", act: func(p *peer) error {
			f, err := p.request()
			if err != nil {
				return err
			}
			// An answer that is there, and no bell.
			b := p.ours.Bytes()[ring.ControlSize:]
			binary.LittleEndian.PutUint64(b[p.records.next%ringSize+8:], f.Tx)
			p.put(ring.ControlSize+int(p.records.next%ringSize), p.records.next>>3<<48|ready<<40|uint64(drivers.KindResponse)<<32|8)
			return nil
		}, end: timeout, also: []string{wrong, local}},
		{name: "words: all of the control area, at random, all the time", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for {
				p.put(rand.IntN(ring.ControlSize/8)*8, rand.Uint64())
			}
		}, end: timeout, also: []string{protocol}, either: true},
		{name: "words: all of the memory, at random, all the time", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for {
				p.put(rand.IntN(len(p.ours.Bytes())/8)*8, rand.Uint64())
			}
		}, end: timeout, also: []string{protocol}, either: true},
	},
	flips()...,
))

const (
	segmentSize = ring.ControlSize + ringSize
	allSeals    = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL
)

// onShm makes rows those of the shm driver only.
func onShm(rows []row) []row {
	for i := range rows {
		rows[i].driver = "shm"
	}
	return rows
}

// pass passes a file in the place of a segment.
func pass(open func() (*os.File, error)) func(*peer) error {
	return func(p *peer) error {
		f, err := open()
		if err != nil {
			return err
		}
		defer f.Close()
		_ = fdpass.Send(p.control, p.helloBytes(), f)
		return nil
	}
}

// memfd makes memory of any size with any seals.
func memfd(size int64, seals int) func() (*os.File, error) {
	return func() (*os.File, error) {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "hostile")
		if size <= segmentSize && size > 0 {
			err = unix.Fallocate(fd, 0, 0, size)
		} else {
			err = unix.Ftruncate(fd, size)
		}
		if err == nil && seals != 0 {
			_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
		}
		return f, err
	}
}

// header is a row with a word of the header that is wrong when the segment is passed.
func header(what string, off int, v uint64) row {
	return row{name: "segment: " + what, hello: func(p *peer) error {
		if err := p.segment(); err != nil {
			return err
		}
		p.put(off, v)
		_ = fdpass.Send(p.control, p.helloBytes(), p.ours.File())
		return nil
	}, start: protocol}
}

// breakOut tries to do to the memory what its seals forbid, and to write the honest
// side's.
func (p *peer) breakOut() error {
	for what, f := range map[string]*os.File{"our": p.ours.File()} {
		fd := int(f.Fd())
		for name, err := range map[string]error{
			"shrink":     unix.Ftruncate(fd, 4096),
			"grow":       unix.Ftruncate(fd, 2*segmentSize),
			"punch":      unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 8192),
			"write":      writeAt(fd),
			"seal":       seal(fd, unix.F_SEAL_WRITE),
			"map":        mapWritable(fd),
			"map theirs": unix.Mprotect(p.theirs.Bytes(), unix.PROT_READ|unix.PROT_WRITE),
		} {
			if err == nil {
				return fmt.Errorf("the kernel lets a peer %s %s memory", name, what)
			}
		}
	}
	return nil
}

func writeAt(fd int) error {
	_, err := unix.Pwrite(fd, []byte("x"), ring.ControlSize)
	return err
}

func seal(fd, seals int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return err
}

func mapWritable(fd int) error {
	b, err := unix.Mmap(fd, 0, segmentSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		_ = unix.Munmap(b)
	}
	return err
}

// record is a row with a record whose word is wrong: the honest side finds it where the
// next record has to be. With an end of "" it may be taken for good or not.
func record(what string, word uint64, end string) row {
	r := row{name: "record: " + what, end: end}
	r.act = began(func(p *peer) { p.forge(word) })
	if end == right {
		// A message of nothing is no frame.
		r.end = protocol
	}
	if end == "" {
		r.end, r.also, r.either = protocol, []string{wrong, remote, local}, true
	}
	return r
}

// began does something when the honest side is at work.
func began(f func(*peer)) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		f(p)
		return nil
	}
}

// begin begins a message of a total length with n bytes.
func (p *peer) begin(total uint64, n int) {
	p.record(2, ready|more, append(binary.LittleEndian.AppendUint64(nil, total), make([]byte, n)...))
}

// position is a row with a consumer position that is impossible. The honest side learns of
// it when its ring is full.
func position(what string, of func(uint64) uint64) row {
	return row{name: "position: " + what, act: func(p *peer) error {
		for v := of(p.word(offConsumerPosition)); ; runtime.Gosched() {
			p.put(offConsumerPosition, v)
			p.put32(offSpaceBell, rand.Uint32())
			wake(p.ours.Bytes()[offSpaceBell:])
		}
	}, end: protocol}
}

// flips are rows with one word that changes all the time between what it should be and
// something else.
func flips() (all []row) {
	for _, f := range []struct {
		what string
		off  int
	}{{"the consumer position", offConsumerPosition}, {"the data waiting word", offDataWaiting}, {"the space waiting word", offSpaceWaiting}} {
		all = append(all, row{name: "words: " + f.what + ", flipping", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for {
				p.put(f.off, rand.Uint64()>>rand.IntN(64))
			}
		}, end: timeout, also: []string{protocol}, either: true})
	}
	return all
}

// changeRequests sends requests, and changes each of them before it sends anything else.
func (p *peer) changeRequests() {
	numbers, _ := ipc.CBOR.Append(nil, make([]int, 500))
	mem := p.ours.Bytes()[ring.ControlSize:]
	for i := range 2000 {
		method := []uint64{sum.Info().ID, echo.Info().ID, inPlace.Info().ID}[i%3]
		f := drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: method, Payload: numbers}
		p.records.mu.Lock()
		p.writeRecord(f.Tag(), ready, append(f.AppendHeader(nil), numbers...))
		end := p.records.next - 8 // of the payload, at least
		for range 1000 {
			mem[(end-rand.Uint64N(uint64(len(numbers))-8))%ringSize] = byte(rand.Uint32())
		}
		p.records.mu.Unlock()
	}
}

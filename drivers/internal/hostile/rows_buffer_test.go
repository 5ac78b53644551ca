//go:build linux

package hostile

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
	"github.com/tandemipc/tandem/ring/sealed"
)

// The records of the control socket, and what a link takes, as in drivers/shm.
const (
	regionPassed = 1
	regionGone   = 2
	acksPassed   = 5
	mostPlaces   = 4096
	mostRegions  = 1024
	regionSize   = 64 << 10
)

// pass sends a record of the control socket, with a file if that is not nil.
func (p *peer) pass(kind, index uint32, size uint64, f *os.File) bool {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(b, index), size)
	n, err := fdpass.Pass(p.control, b, f)
	return err == nil && n == len(b)
}

// region passes a region that is right.
func (p *peer) region(index uint32) {
	p.pass(regionPassed, index, regionSize, memory(regionSize).File())
}

func memory(size int) *sealed.Memory {
	m, err := sealed.Create("hostile", size)
	if err != nil {
		panic(err)
	}
	return m
}

// roughMemory is memory that is not as it has to be.
func roughMemory(size int64, allocate bool, seals int) *os.File {
	fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		panic(err)
	}
	if err = unix.Ftruncate(fd, size); err == nil && allocate {
		err = unix.Fallocate(fd, 0, 0, size)
	}
	if err == nil && seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		panic(err)
	}
	return os.NewFile(uintptr(fd), "hostile")
}

const goodSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL

func bufferHandles(all ...drivers.Handle) (b []byte) {
	for i := range all {
		b = all[i].Append(b)
	}
	return b
}

// withHandles sends a request with handles.
func (p *peer) withHandles(all ...drivers.Handle) {
	p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: echo.Info().ID, Payload: []byte("x"), Handles: bufferHandles(all...)})
}

// onRegion does something when region 0 was passed.
func onRegion(f func(p *peer)) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		p.region(0)
		f(p)
		return nil
	}
}

func oneHandle(h drivers.Handle) func(*peer) error {
	return onRegion(func(p *peer) { p.withHandles(h) })
}

// onControl does something to the control socket.
func onControl(f func(p *peer)) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		f(p)
		return nil
	}
}

var oneEmpty = bufferHandles(drivers.Handle{Number: 1})

// bufferRows are about handles, and the memory that they are of.
var bufferRows = slices.Concat(
	handleKindRows(),
	[]row{
		{name: "buffer: a handle of 31 bytes", act: sendFrame(drivers.Frame{Kind: drivers.KindRequest, Tx: 1 << 40, Handles: oneEmpty[:31]}), end: protocol},
		{name: "buffer: a handle and a half", act: sendFrame(drivers.Frame{Kind: drivers.KindRequest, Tx: 1 << 40, Handles: append(oneEmpty, oneEmpty[:16]...)}), end: protocol},
		{name: "buffer: handles with several notifications", act: sendFrame(drivers.Frame{Kind: drivers.KindNotify, Tx: 2, Method: told.Info().ID, Handles: oneEmpty}), end: protocol},
		{name: "buffer: handles for the second time", act: sendOne(byte(drivers.KindRequest)|0x20, append(append(append(make([]byte, 8), 70, 0), append([]byte{4, 32, 0}, oneEmpty...)...), append([]byte{4, 32, 0}, oneEmpty...)...)), end: protocol},
		{name: "buffer: more than the most", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			p.region(0)
			var all []drivers.Handle
			for i := range ipc.MaxBuffers + 1 {
				all = append(all, drivers.Handle{Number: uint64(i + 1), Place: uint32(i)})
			}
			p.withHandles(all...)
			return nil
		}, end: protocol, driver: "shm"},
		{name: "buffer: more than the most, inline", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			p.withHandles(make([]drivers.Handle, ipc.MaxBuffers+1)...)
			return nil
		}, end: protocol, driver: "socket"},

		{name: "buffer: of more bytes than there are", act: sendFrame(drivers.Frame{Kind: drivers.KindRequest, Tx: 1 << 40, Method: echo.Info().ID, Payload: []byte("12345678"), Handles: bufferHandles(drivers.Handle{Number: 1, Size: 9})}), driver: "socket", end: protocol},
		{name: "buffer: sizes that overflow", act: sendFrame(drivers.Frame{Kind: drivers.KindRequest, Tx: 1 << 40, Method: echo.Info().ID, Payload: []byte("12345678"), Handles: bufferHandles(drivers.Handle{Number: 1, Size: 8}, drivers.Handle{Number: 2, Size: math.MaxUint64 - 7})}), driver: "socket", end: protocol},
		{name: "buffer: answers of more bytes than there are", act: answerAll(func(p *peer, f drivers.Frame) {
			p.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: []byte("1234"), Handles: bufferHandles(drivers.Handle{Number: 1, Size: 5})})
		}), driver: "socket", end: protocol},
		{name: "buffer: nobody wants them", act: harmless(func(p *peer) {
			for i := range 2000 {
				n := uint64(i % 9)
				for _, f := range []drivers.Frame{
					{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: echo.Info().ID}, {Kind: drivers.KindRequest, Tx: p.nextTx(), Method: 0xdead},
					{Kind: drivers.KindNotify, Method: told.Info().ID}, {Kind: drivers.KindResponse, Tx: 1 << 63},
				} {
					f.Payload, f.Handles = make([]byte, 8), bufferHandles(drivers.Handle{Number: 1, Size: n}, drivers.Handle{Number: 1, Size: 8 - n})
					p.send(f)
				}
			}
		}), driver: "socket", serves: true, end: right},

		{name: "buffer: of a region that was never passed", act: oneHandle(drivers.Handle{Number: 1, Region: 1}), driver: "shm", end: protocol},
		{name: "buffer: of region 2^32-1", act: oneHandle(drivers.Handle{Number: 1, Region: math.MaxUint32}), driver: "shm", end: protocol},
		{name: "buffer: beyond its region", act: oneHandle(drivers.Handle{Number: 1, Size: regionSize + 1}), driver: "shm", end: protocol},
		{name: "buffer: from beyond its region", act: oneHandle(drivers.Handle{Number: 1, Offset: regionSize + 1}), driver: "shm", end: protocol},
		{name: "buffer: partly beyond its region", act: oneHandle(drivers.Handle{Number: 1, Offset: regionSize - 1, Size: 2}), driver: "shm", end: protocol},
		{name: "buffer: whose end overflows", act: oneHandle(drivers.Handle{Number: 1, Offset: 16, Size: math.MaxUint64 - 15}), driver: "shm", end: protocol},
		{name: "buffer: whose offset overflows", act: oneHandle(drivers.Handle{Number: 1, Offset: math.MaxUint64, Size: 1}), driver: "shm", end: protocol},
		{name: "buffer: in a place that there is not", act: oneHandle(drivers.Handle{Number: 1, Place: mostPlaces}), driver: "shm", end: protocol},
		{name: "buffer: in place 2^32-1", act: oneHandle(drivers.Handle{Number: 1, Place: math.MaxUint32}), driver: "shm", end: protocol},
		{name: "buffer: twice in one place", act: onRegion(func(p *peer) {
			p.withHandles(drivers.Handle{Number: 1, Place: 5}, drivers.Handle{Number: 2, Place: 5})
		}), driver: "shm", end: protocol},
		{name: "buffer: in a place that has another", act: onRegion(func(p *peer) {
			for range 2 {
				p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: stuck.Info().ID, Handles: bufferHandles(drivers.Handle{Number: 1, Place: 5})})
			}
		}), driver: "shm", end: protocol},
		{name: "buffer: of a region that has gone", act: onRegion(func(p *peer) {
			p.pass(regionGone, 0, 0, nil)
			p.region(1) // who finds it has seen the other go
			p.withHandles(drivers.Handle{Number: 1, Region: 1}, drivers.Handle{Number: 2, Place: 1, Region: 0})
		}), driver: "shm", end: protocol},
		{name: "buffer: with the answer, in all places", act: answerAll(func(p *peer, f drivers.Frame) {
			p.region(0)
			p.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Handles: bufferHandles(drivers.Handle{Number: 1, Place: mostPlaces + 5})})
		}), driver: "shm", end: protocol},

		{name: "region: twice", act: onRegion(func(p *peer) { p.region(0) }), driver: "shm", end: protocol},
		{name: "region: beyond the most", act: onControl(func(p *peer) {
			for i := range uint32(mostRegions + 1) {
				p.region(i)
			}
		}), driver: "shm", end: protocol},
		{name: "region: number 2^32-1", act: onControl(func(p *peer) { p.region(math.MaxUint32) }), driver: "shm", end: protocol},
		{name: "region: of no bytes", act: onControl(func(p *peer) { p.pass(regionPassed, 0, 0, memory(regionSize).File()) }), driver: "shm", end: protocol},
		{name: "region: larger than it says", act: onControl(func(p *peer) { p.pass(regionPassed, 0, regionSize/2, memory(regionSize).File()) }), driver: "shm", end: protocol},
		{name: "region: smaller than it says", act: onControl(func(p *peer) { p.pass(regionPassed, 0, regionSize*2, memory(regionSize).File()) }), driver: "shm", end: protocol},
		{name: "region: of 2^64-1 bytes", act: onControl(func(p *peer) { p.pass(regionPassed, 0, math.MaxUint64, memory(regionSize).File()) }), driver: "shm", end: protocol},
		{name: "region: without a descriptor", act: onControl(func(p *peer) { p.pass(regionPassed, 0, regionSize, nil) }), driver: "shm", end: protocol},
		{name: "region: not sealed", act: onControl(func(p *peer) { p.pass(regionPassed, 0, regionSize, roughMemory(regionSize, true, 0)) }), driver: "shm", end: protocol},
		{name: "region: that can shrink", act: onControl(func(p *peer) {
			p.pass(regionPassed, 0, regionSize, roughMemory(regionSize, true, goodSeals&^unix.F_SEAL_SHRINK))
		}), driver: "shm", end: protocol},
		{name: "region: with a hole", act: onControl(func(p *peer) { p.pass(regionPassed, 0, regionSize, roughMemory(regionSize, false, goodSeals)) }), driver: "shm", end: protocol},
		{name: "region: a hole of terabytes", act: onControl(func(p *peer) { p.pass(regionPassed, 0, 1<<44, roughMemory(1<<44, false, goodSeals)) }), driver: "shm", end: protocol},
		{name: "region: a pipe", act: onControl(func(p *peer) {
			r, _, err := os.Pipe()
			if err != nil {
				panic(err)
			}
			p.pass(regionPassed, 0, regionSize, r)
		}), driver: "shm", end: protocol},
		{name: "region: gone that never came", act: onControl(func(p *peer) { p.pass(regionGone, 7, 0, nil) }), driver: "shm", end: protocol},
		{name: "region: gone twice", act: onRegion(func(p *peer) {
			p.pass(regionGone, 0, 0, nil)
			p.pass(regionGone, 0, 0, nil)
		}), driver: "shm", end: protocol},
		{name: "region: gone, with a descriptor", act: onRegion(func(p *peer) { p.pass(regionGone, 0, 0, memory(regionSize).File()) }), driver: "shm", end: protocol},
		{name: "region: they come and go for long", act: harmless(func(p *peer) {
			f := memory(regionSize).File()
			for range 20_000 {
				p.pass(regionPassed, 3, regionSize, f)
				p.pass(regionGone, 3, 0, nil)
			}
		}), driver: "shm", serves: true, end: right},
		{name: "region: the most, all of the same memory", act: harmless(func(p *peer) {
			f := memory(regionSize).File()
			for i := range uint32(mostRegions) {
				p.pass(regionPassed, i, regionSize, f)
			}
		}), driver: "shm", serves: true, end: right},

		{name: "acks: twice", act: onControl(func(p *peer) {
			for range 2 {
				p.pass(acksPassed, 0, mostPlaces*8, memory(mostPlaces*8).File())
			}
		}), driver: "shm", end: protocol},
		{name: "acks: too small", act: onControl(func(p *peer) { p.pass(acksPassed, 0, mostPlaces*8, memory(4096).File()) }), driver: "shm", end: protocol},
		{name: "acks: too large", act: onControl(func(p *peer) { p.pass(acksPassed, 0, mostPlaces*8, memory(mostPlaces*16).File()) }), driver: "shm", end: protocol},
		{name: "acks: not sealed", act: onControl(func(p *peer) { p.pass(acksPassed, 0, mostPlaces*8, roughMemory(mostPlaces*8, true, 0)) }), driver: "shm", end: protocol},
		{name: "acks: without a descriptor", act: onControl(func(p *peer) { p.pass(acksPassed, 0, mostPlaces*8, nil) }), driver: "shm", end: protocol},
		{name: "acks: of nothing that was sent", act: harmless(func(p *peer) {
			m := memory(mostPlaces * 8)
			for i := range m.Bytes() {
				m.Bytes()[i] = byte(i * 7)
			}
			p.pass(acksPassed, 0, mostPlaces*8, m.File())
		}), driver: "shm", serves: true, end: right},
		{name: "control: a record of no kind", act: onControl(func(p *peer) { p.pass(0, 0, 0, nil) }), driver: "shm", end: protocol},
		{name: "control: a record of kind 2^32-1", act: onControl(func(p *peer) { p.pass(math.MaxUint32, 0, 0, memory(4096).File()) }), driver: "shm", end: protocol},
	},
)

// handleKindRows are a row for each kind of frame to which nothing can be attached.
func handleKindRows() (all []row) {
	for _, kind := range []drivers.Kind{
		drivers.KindError, drivers.KindCancel, drivers.KindGoodbye, drivers.KindPing, drivers.KindPong, drivers.KindCredit,
		drivers.KindResume, drivers.KindOpen, drivers.KindWindow, drivers.KindEnd, drivers.KindItems,
	} {
		all = append(all, row{name: fmt.Sprintf("buffer: with a frame of kind %v", kind), act: sendFrame(drivers.Frame{Kind: kind, Tx: 2, Handles: oneEmpty}), end: protocol})
	}
	return append(all, row{name: "buffer: with a piece of an item", act: sendFrame(drivers.Frame{Kind: drivers.KindItems, Method: drivers.ItemPiece, Tx: 2, Handles: oneEmpty}), end: protocol})
}

//go:build linux

package hostile

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// fileRows are about open files that come beside frames: none that comes is kept, whatever is
// said of it.
var fileRows = slices.Concat(socketFileRows, onShm(shmFileRows))

// handles are those of files, with their numbers and places.
func handles(numbersAndPlaces ...int) (b []byte) {
	for i := 0; i < len(numbersAndPlaces); i += 2 {
		h := drivers.Handle{Number: uint64(numbersAndPlaces[i]), Place: uint32(numbersAndPlaces[i+1]), Region: drivers.FileRegion}
		b = h.Append(b)
	}
	return b
}

// withFiles is a notification whose handles are h.
func withFiles(h []byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Handles: h, Payload: []byte("files")}
}

// passes writes b to the control socket at once, with so many descriptors.
func (p *peer) passes(b []byte, n int) bool {
	null, fds, err := manyDescriptors()
	if err != nil {
		return false
	}
	defer null.Close()
	p.sending.Lock()
	defer p.sending.Unlock()
	_, _, err = p.control.WriteMsgUnix(b, unix.UnixRights(fds[:n]...), nil)
	return err == nil
}

// sendFiles sends a frame over a socket that says that it has so many files, with others perhaps.
func (p *peer) sendFiles(f drivers.Frame, says, passed int) bool {
	body := append(f.AppendHeader(nil), f.Payload...)
	b := append(prefix(len(body), f.Tag()), body...)
	b[5] = byte(says)
	return p.passes(b, passed)
}

var socketFileRows = onSocket(
	row{name: "files: descriptors with each frame that has none", act: began(func(p *peer) {
		ping := append(prefix(8, byte(drivers.KindPing)), make([]byte, 8)...)
		for p.passes(ping, 200) {
		}
	}), end: protocol},
	row{name: "files: none that a frame has", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)), 1, 0) }), end: protocol},
	row{name: "files: fewer than a frame has", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0, 2, 1)), 2, 1) }), end: protocol},
	row{name: "files: more than a frame has", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0, 2, 1)), 2, 3) }), end: protocol},
	row{name: "files: more than there may be", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)), 17, 17) }), end: protocol},
	row{name: "files: far more than a frame has", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)), 16, 200) }), end: protocol},
	row{name: "files: more than a frame names", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)), 2, 2) }), end: protocol},
	row{name: "files: fewer than a frame names", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0, 2, 1, 3, 2)), 2, 2) }), end: protocol},
	row{name: "files: named without any", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)), 0, 0) }), end: protocol},
	row{name: "files: named twice", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0, 2, 0)), 2, 2) }), end: protocol},
	row{name: "files: two of one number", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0, 1, 1)), 2, 2) }), end: protocol},
	row{name: "files: of number 0", act: began(func(p *peer) { p.sendFiles(withFiles(handles(0, 0)), 1, 1) }), end: protocol},
	row{name: "files: half a handle", act: began(func(p *peer) { p.sendFiles(withFiles(handles(1, 0)[:20]), 1, 1) }), end: protocol},
	row{name: "files: with a size", act: began(func(p *peer) {
		h := drivers.Handle{Number: 1, Region: drivers.FileRegion, Size: 1}
		p.sendFiles(withFiles(h.Append(nil)), 1, 1)
	}), end: protocol},
	row{name: "files: sent rightly, again and again", act: func(p *peer) error {
		for range 300 {
			if !p.sendFiles(withFiles(handles(1, 0, 2, 1, 7, 2)), 3, 3) {
				break
			}
		}
		return p.probe()
	}, serves: true, end: right},
	row{name: "files: of frames that are given up, for ever", act: func(p *peer) error {
		b := append(prefix(3000, byte(drivers.KindNotify)), make([]byte, 3001)...)
		b[5] = ipc.MaxFiles
		for p.passes(b, ipc.MaxFiles) {
		}
		return nil
	}, end: timeout},
	row{name: "files: of a frame that never ends", act: func(p *peer) error {
		b := prefix(maxMessage, byte(drivers.KindNotify))
		b[5] = 3
		p.passes(b, 3)
		return neverAnswer(p)
	}, end: timeout},
)

// The kinds of records on the control socket, as in drivers/shm/control.go.
const (
	recordRegion      = 1
	recordRegionGone  = 2
	recordFile        = 3
	recordFileDropped = 4
)

// controlRecord writes a record to the control socket, with so many descriptors.
func (p *peer) controlRecord(kind, index uint32, size uint64, n int) bool {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, index)
	return p.passes(binary.LittleEndian.AppendUint64(b, size), n)
}

// controlRow is a row of one record.
func controlRow(name string, kind, index uint32, size uint64, n int) row {
	return row{name: "control: " + name, act: began(func(p *peer) { p.controlRecord(kind, index, size, n) }), end: protocol}
}

var shmFileRows = []row{
	controlRow("zeros", 0, 0, 0, 0),
	controlRow("an unknown kind", 99, 0, 0, 0),
	controlRow("an unknown kind, with a descriptor", 99, 0, 0, 1),
	controlRow("a file without a descriptor", recordFile, 0, 0, 0),
	controlRow("a file with two descriptors", recordFile, 0, 0, 2),
	controlRow("a file with hundreds of descriptors", recordFile, 0, 0, 200),
	controlRow("a file out of order", recordFile, 1, 0, 1),
	controlRow("a file with a size", recordFile, 0, 1, 1),
	controlRow("a file is dropped that has not come", recordFileDropped, 0, 0, 0),
	controlRow("a file is dropped, with a descriptor", recordFileDropped, 0, 0, 1),
	controlRow("a region without a descriptor", recordRegion, 0, 4096, 0),
	controlRow("a region has gone, with a descriptor", recordRegionGone, 0, 0, 1),
	{name: "control: descriptors with each byte of a record", act: began(func(p *peer) {
		for range 16 {
			p.passes([]byte{recordFile}, 1)
		}
	}), end: protocol},
	{name: "control: half a record, with a descriptor", act: harmless(func(p *peer) {
		p.passes([]byte{recordFile, 0, 0, 0, 0}, 1)
	}), serves: true, end: right},
	{name: "control: files that no frame names", act: harmless(func(p *peer) {
		for i := range uint32(200) { // more than the honest side takes
			p.controlRecord(recordFile, i, 0, 1)
		}
	}), serves: true, end: right},
	{name: "control: a frame names a file that lies too far behind", act: began(func(p *peer) {
		for i := range uint32(200) {
			p.controlRecord(recordFile, i, 0, 1)
		}
		p.send(withFiles(handles(1, 150)))
	}), end: protocol},
	{name: "control: files come and are dropped, again and again", act: harmless(func(p *peer) {
		for i := range uint32(1000) {
			p.controlRecord(recordFile, i, 0, 1)
			p.controlRecord(recordFileDropped, i, 0, 0)
		}
	}), serves: true, end: right},
	{name: "control: files are sent rightly, again and again", act: harmless(func(p *peer) {
		for i := range 300 {
			p.controlRecord(recordFile, uint32(i), 0, 1)
			p.send(withFiles(handles(1, i)))
		}
	}), serves: true, end: right},
	{name: "control: a frame names a file that has not come", act: began(func(p *peer) { p.send(withFiles(handles(1, 0))) }), end: protocol},
	{name: "control: a frame names a file twice", act: began(func(p *peer) {
		p.controlRecord(recordFile, 0, 0, 1)
		p.send(withFiles(handles(1, 0, 2, 0)))
	}), end: protocol},
	{name: "control: two frames name a file", act: began(func(p *peer) {
		p.controlRecord(recordFile, 0, 0, 1)
		p.send(withFiles(handles(1, 0)))
		p.send(withFiles(handles(1, 0)))
	}), end: protocol},
	{name: "control: a frame names a file that was dropped", act: began(func(p *peer) {
		p.controlRecord(recordFile, 0, 0, 1)
		p.controlRecord(recordFileDropped, 0, 0, 0)
		p.send(withFiles(handles(1, 0)))
	}), end: protocol},
	{name: "control: more files than a frame may have", act: began(func(p *peer) {
		var h []byte
		for i := range ipc.MaxFiles + 1 {
			p.controlRecord(recordFile, uint32(i), 0, 1)
			h = append(h, handles(i+1, i)...)
		}
		p.send(withFiles(h))
	}), end: protocol},
}

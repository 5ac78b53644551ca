//go:build linux

package hostile

import (
	"encoding/binary"
	"strings"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// field is a field of metadata as it is encoded.
func field(key, value string) string {
	b := binary.LittleEndian.AppendUint16([]byte{byte(len(key))}, uint16(len(value)))
	return string(b) + key + value
}

// withMetadata is the body of a frame with a tx of 0, and extensions: of each kind its value.
func withMetadata(kinds string, values ...string) []byte {
	var list []byte
	for i, v := range values {
		list = append(binary.LittleEndian.AppendUint16(append(list, kinds[i]), uint16(len(v))), v...)
	}
	return append(binary.LittleEndian.AppendUint16(make([]byte, 8), uint16(len(list))), list...)
}

// theMost is as much metadata as there may be, in few fields and in many.
var (
	theMost  = drivers.NewMetadata(ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-33)), ipc.Pairs("k", strings.Repeat("v", ipc.MaxMetadata-33)))
	theMany  = drivers.NewMetadata(manyFields(), manyFields())
	extended = byte(drivers.KindResponse) | 0x20
)

func manyFields() (md ipc.Metadata) {
	for md.Size()+33 <= ipc.MaxMetadata {
		md.Add("k", "")
	}
	return md
}

// metadataRows are about what travels beside payloads.
var metadataRows = []row{
	{name: "metadata: a field of two bytes", act: sendOne(extended, withMetadata("\x02", "\x01\x00")), end: protocol},
	{name: "metadata: a value beyond the end", act: sendOne(extended, withMetadata("\x03", "\x01\xff\xffkv")), end: protocol},
	{name: "metadata: a key beyond the end", act: sendOne(extended, withMetadata("\x02", field("k", "v")+"\xff\x00\x00k")), end: protocol},
	{name: "metadata: an empty key", act: sendOne(extended, withMetadata("\x02", field("", "v"))), end: protocol},
	{name: "metadata: an upper case key", act: sendOne(extended, withMetadata("\x03", field("Key", "v"))), end: protocol},
	{name: "metadata: a key with a line feed", act: sendOne(extended, withMetadata("\x02", field("k\n", "v"))), end: protocol},
	{name: "metadata: the same part twice", act: sendOne(extended, withMetadata("\x02\x02", field("k", "v"), field("k", "v"))), end: protocol},
	{name: "metadata: more bytes than may be", act: sendOne(extended, withMetadata("\x02", field("k", strings.Repeat("v", ipc.MaxMetadata)))), end: protocol},
	{name: "metadata: endless fields", act: sendOne(extended, withMetadata("\x02", strings.Repeat(field("k", ""), ipc.MaxMetadata/4))), end: protocol},
	{name: "metadata: one field too many", act: sendOne(extended, withMetadata("\x03", strings.Repeat(field("k", ""), ipc.MaxMetadata/33+1))), end: protocol},
	{name: "metadata: as much as the extensions hold", act: sendOne(extended, withMetadata("\x02", strings.Repeat("\x01\x00\x00k", 16383))), end: protocol},
	{name: "metadata: of notifications that share a frame", act: sendFrame(drivers.Frame{
		Kind: drivers.KindNotify, Tx: 1, Method: told.Info().ID, Payload: drivers.AppendItem(nil, nil), Meta: theMost,
	}), end: protocol},
	{name: "metadata: answers with the most", act: func(p *peer) error {
		for {
			f, err := p.request()
			if err != nil {
				return nil
			}
			p.replyWith(f, theMany)
			if f.Method == last.Info().ID {
				return nil
			}
		}
	}, end: right},
	{name: "metadata: the most, in answers of calls never made", act: harmless(func(p *peer) {
		for i := range uint64(3000) {
			p.send(drivers.Frame{Kind: drivers.KindResponse + drivers.Kind(i&1), Tx: i<<1 | 1<<63, Meta: theMany})
		}
	}), serves: true, end: right},
	{name: "metadata: where none belongs", act: harmless(func(p *peer) {
		for range 100 {
			for _, kind := range []drivers.Kind{drivers.KindCancel, drivers.KindPing, drivers.KindPong} {
				p.send(drivers.Frame{Kind: kind, Meta: theMany})
			}
			p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: 0xdead, Meta: theMost})
			p.send(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Meta: theMost})
		}
	}), serves: true, end: right},
	{name: "metadata: in floods of openings", act: func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		for {
			f := opening(p.nextTx(), initial, nil)
			if f.Meta = theMany; !p.send(f) {
				return nil
			}
		}
	}, end: protocol, also: []string{timeout}, memory: 320},
	{name: "metadata: with each of the items", streams: true, act: onStream(func(tx uint64) (all []drivers.Frame) {
		for range 2 {
			f := items(tx, 0, drivers.AppendItem(nil, []byte("x")))
			f.Meta = theMost
			all = append(all, f)
		}
		return all
	}), end: protocol},
	{name: "metadata: with items and the end", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		f, end := items(tx, 0, drivers.AppendItem(nil, []byte("x"))), ended(tx, drivers.EndReturned)
		f.Meta, end.Meta = theMost, theMany
		return []drivers.Frame{f, end, end}
	}), end: right},
	// They count for what they take, so no more of them wait than the window has room for.
	{name: "metadata: requests with the most, beyond the window", act: floodOf(drivers.Frame{Kind: drivers.KindRequest, Method: stuck.Info().ID, Meta: theMany}), end: protocol, memory: 128},
	{name: "metadata: notifications with the most, beyond the window", act: floodOf(drivers.Frame{Kind: drivers.KindNotify, Method: stuck.Info().ID, Meta: theMany}), end: protocol, memory: 128},
}

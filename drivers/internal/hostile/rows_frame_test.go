//go:build linux

package hostile

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// frameRows are about frames that are malformed, or that nobody expects.
var frameRows = slicesOf(
	[]row{
		{name: "frame: reserved bits of the tag", act: sendOne(0x41, make([]byte, 64)), end: protocol},
		{name: "frame: no room for a tx", act: sendOne(byte(drivers.KindResponse), []byte{1, 2, 3}), end: protocol},
		{name: "frame: nothing in it", act: sendOne(byte(drivers.KindResponse), nil), end: protocol},
		{name: "frame: no room for a method", act: sendOne(byte(drivers.KindRequest)|0x10, make([]byte, 8)), end: protocol},
		{name: "frame: extensions beyond the end", act: sendOne(byte(drivers.KindRequest)|0x20, append(make([]byte, 8), 0xff, 0xff, 1, 8, 0)), end: protocol},
		{name: "frame: an extension beyond the extensions", act: sendOne(byte(drivers.KindRequest)|0x20, append(make([]byte, 8), 3, 0, 1, 255, 0)), end: protocol},
		{name: "frame: a deadline of 3 bytes", act: sendOne(byte(drivers.KindRequest)|0x20, append(make([]byte, 8), 6, 0, 1, 3, 0, 0, 0, 0)), end: protocol},
		{name: "frame: a deadline of 0", act: sendOne(byte(drivers.KindRequest)|0x20, extension(0)), end: protocol},
		{name: "frame: a negative deadline", act: sendOne(byte(drivers.KindRequest)|0x20, extension(math.MaxUint64)), end: protocol},
		{name: "frame: too large", act: sendOne(byte(drivers.KindResponse), make([]byte, maxMessage+1)), end: protocol},
		{name: "frame: credit of 3 bytes", act: sendFrame(drivers.Frame{Kind: drivers.KindCredit, Payload: []byte{1, 2, 3}}), end: protocol},
		{name: "frame: resume, to a side that does not", act: sendFrame(drivers.Frame{Kind: drivers.KindResume, Payload: make([]byte, 8)}), driver: "shm", end: protocol},
		{name: "frame: resume, from a worker", act: sendFrame(drivers.Frame{Kind: drivers.KindResume, Payload: make([]byte, 8)}), role: "worker", driver: "socket", end: protocol},
		{name: "frame: a link is numbered twice", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for range 2 {
				p.send(drivers.Frame{Kind: drivers.KindResume, Payload: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
			}
			return nil
		}, role: "host", driver: "socket", end: protocol},
		{name: "frame: extensions of unknown types", act: func(p *peer) error {
			p.sendRaw(byte(drivers.KindNotify)|0x20, append(make([]byte, 8), 8, 0, 200, 1, 0, 9, 99, 1, 0, 9))
			return p.probe()
		}, serves: true, end: right},
		{name: "frame: deadlines near the ends", act: func(p *peer) error {
			for _, d := range []uint64{1, math.MaxInt64 - 1, math.MaxInt64} {
				b := append(binary.LittleEndian.AppendUint64(nil, p.nextTx()), binary.LittleEndian.AppendUint64(nil, echo.Info().ID)...)
				p.sendRaw(byte(drivers.KindRequest)|0x30, append(b, extension(d)[8:]...))
			}
			return p.probe()
		}, serves: true, end: right},
		{name: "frame: each kind with each tx", act: harmless(func(p *peer) {
			for _, tx := range []uint64{0, 1, 2, 3, math.MaxUint64, math.MaxUint64 - 1, 1 << 63, 1 << 21, 1<<21 | 1} {
				for _, kind := range []drivers.Kind{drivers.KindRequest, drivers.KindNotify, drivers.KindCancel, drivers.KindPing, drivers.KindPong} {
					if kind == drivers.KindNotify { // of which it is a number
						tx %= drivers.MaxPacked + 1
					}
					p.send(drivers.Frame{Kind: kind, Tx: tx, Method: 0xdead, Payload: []byte("what?")})
				}
			}
		}), serves: true, end: right},
		{name: "frame: answers of calls never made", act: harmless(func(p *peer) {
			for i := range uint64(10_000) {
				// Not of a use that the honest side may come to: it may take that.
				tx := rand.Uint64() | 1<<63
				p.send(drivers.Frame{Kind: drivers.KindResponse + drivers.Kind(i&1), Tx: tx, Payload: []byte("here you are")})
			}
		}), serves: true, end: right},
		{name: "frame: answers twice", act: func(p *peer) error {
			for {
				f, err := p.request()
				if err != nil {
					return nil // the honest side has had enough
				}
				p.reply(f)
				p.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: []byte("and another one")})
				p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: []byte("and no")})
				if f.Method == last.Info().ID {
					return nil
				}
			}
		}, end: right},
		{name: "frame: answers that are wrong", act: answerAll(func(p *peer, f drivers.Frame) {
			p.send(drivers.Frame{Kind: drivers.KindResponse, Tx: f.Tx, Payload: bytes.Repeat([]byte{0xff}, 100)})
		}), also: []string{wrong, local}, end: right},
		{name: "frame: errors of garbage", act: answerAll(func(p *peer, f drivers.Frame) {
			p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: bytes.Repeat([]byte{0xff}, 100)})
		}), end: remote},
		{name: "frame: errors of nothing", act: answerAll(func(p *peer, f drivers.Frame) {
			p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx})
		}), end: remote},
		{name: "frame: errors of the most parts", act: answerAll(func(p *peer, f drivers.Frame) {
			p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: manyParts})
		}), end: remote},
		{name: "frame: errors that are the library's own", act: answerAll(func(p *peer, f drivers.Frame) {
			e := &ipc.Error{Code: ipc.CodeUnavailable, Message: "\xff\x00", Details: map[string]string{
				"tandem.draining": "1", "tandem.unknown_method": "1", "tandem.handlers": "\xff",
			}}
			p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, e)})
		}), end: remote},
		{name: "frame: errors that say that the call took too long", act: answerAll(func(p *peer, f drivers.Frame) {
			e := &ipc.Error{Code: ipc.CodeDeadlineExceeded, Details: map[string]string{"tandem.overdue": "1"}}
			p.send(drivers.Frame{Kind: drivers.KindError, Tx: f.Tx, Payload: ipc.AppendError(nil, e)})
		}), end: timeout},
		{name: "frame: asks for answers of calls never made, without reading", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for i := uint64(1); p.send(drivers.Frame{Kind: drivers.KindResume, Tx: i << 1, Payload: make([]byte, 16)}); i++ {
			}
			return nil
		}, role: "host", driver: "socket", end: protocol, memory: 200},
		{name: "frame: a request again while it runs", act: harmless(func(p *peer) {
			tx := p.nextTx()
			for range 1000 {
				p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: stuck.Info().ID})
			}
			for range 1000 {
				p.send(drivers.Frame{Kind: drivers.KindCancel, Tx: tx})
			}
		}), serves: true, end: right},
		{name: "frame: cancels of nothing", act: harmless(func(p *peer) {
			for i := range uint64(100_000) {
				p.send(drivers.Frame{Kind: drivers.KindCancel, Tx: i, Payload: []byte{byte(i), 1, 2, 3}})
			}
		}), serves: true, end: right},
		{name: "frame: pings", act: harmless(func(p *peer) {
			for range 100_000 {
				p.send(drivers.Frame{Kind: drivers.KindPing})
			}
		}), serves: true, end: right},
		{name: "frame: pings, without reading", act: func(p *peer) error {
			for range 100_000 {
				p.send(drivers.Frame{Kind: drivers.KindPing})
			}
			return nil
		}, end: timeout},
		{name: "frame: pongs", act: harmless(func(p *peer) {
			for range 100_000 {
				p.send(drivers.Frame{Kind: drivers.KindPong})
			}
		}), serves: true, end: right},
		{name: "frame: unknown methods", act: harmless(func(p *peer) {
			for i := range uint64(4000) { // half of the window, so that nothing else is wrong with them
				p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: i})
				p.send(drivers.Frame{Kind: drivers.KindNotify, Method: i})
			}
		}), serves: true, end: right},
		{name: "frame: requests that cannot be decoded", act: harmless(func(p *peer) {
			for range 100 {
				b := make([]byte, 1000)
				for i := range b {
					b[i] = byte(rand.Uint32())
				}
				p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: p.nextTx(), Method: sum.Info().ID, Payload: b})
			}
		}), serves: true, end: right},
		{name: "frame: goodbye, and on it goes", act: harmless(func(p *peer) {
			p.send(drivers.Frame{Kind: drivers.KindGoodbye})
			p.send(drivers.Frame{Kind: drivers.KindGoodbye})
		}), role: "worker", serves: true, end: right},
		{name: "frame: heartbeats unanswered", act: neverAnswer, role: "worker", heartbeat: true, end: timeout, also: []string{gone}},
		{name: "frame: never an answer", act: neverAnswer, end: timeout},
		{name: "frame: reads nothing", end: timeout},
		{name: "frame: one sort after the other, at random", act: func(p *peer) error {
			if _, err := p.request(); err != nil {
				return err
			}
			for {
				var b [40]byte
				for i := range b {
					b[i] = byte(rand.Uint32())
				}
				if !p.sendRaw(b[0]&0x3f, b[1:1+rand.IntN(39)]) {
					return nil
				}
			}
		}, end: protocol, also: []string{wrong, remote, local}},
	},
	slicesOf(kinds(), packedRows()...)...,
)

// packedRows are about frames of many notifications, for handlers that run in order, and
// beside themselves.
func packedRows() (all []row) {
	small := make([]byte, 13)
	items := func(n int) (b []byte) {
		for range n {
			b = drivers.AppendItem(b, small)
		}
		return b
	}
	found := []string{gone} // by the handler, when the peer has gone already
	for _, m := range []*ipc.Method[[]byte, []byte]{told, few} {
		pack := func(n uint64, payload []byte) drivers.Frame {
			return drivers.Frame{Kind: drivers.KindNotify, Tx: n, Method: m.Info().ID, Payload: payload}
		}
		all = append(all,
			row{name: "packed: more than one frame holds, for " + m.Info().Name, act: sendFrame(pack(drivers.MaxPacked+1, items(drivers.MaxPacked+1))), end: protocol},
			row{name: "packed: the largest number, for " + m.Info().Name, act: sendFrame(pack(math.MaxUint64, items(1))), end: protocol},
			row{name: "packed: fewer than it says, for " + m.Info().Name, act: sendFrame(pack(3, items(2))), end: protocol, also: found, either: true},
			row{name: "packed: more than it says, for " + m.Info().Name, act: sendFrame(pack(1, items(2))), end: protocol, also: found, either: true},
			row{name: "packed: none, for " + m.Info().Name, act: sendFrame(pack(1, nil)), end: protocol, also: found, either: true},
			row{name: "packed: one cut short, for " + m.Info().Name, act: sendFrame(pack(2, items(2)[:drivers.ItemSpan(len(small))+12])), end: protocol, also: found, either: true},
			row{name: "packed: one of the largest size, for " + m.Info().Name, act: sendFrame(pack(1, bytes.Repeat([]byte{0xff}, 64))), end: protocol, also: found, either: true},
			row{name: "packed: many, for " + m.Info().Name, act: harmless(func(p *peer) {
				for n := range uint64(1000) {
					n = n%drivers.MaxPacked + 1
					p.send(pack(n, items(int(n))))
				}
			}), serves: true, end: right},
		)
	}
	return all
}

// kinds are rows for the kinds that there are not.
func kinds() (all []row) {
	for _, kind := range []drivers.Kind{0, 15} {
		all = append(all, row{
			name: "frame: kind " + kind.String(), act: sendFrame(drivers.Frame{Kind: kind, Tx: 2}), end: protocol,
		})
	}
	return all
}

// extension is a tx of 0 and a deadline.
func extension(d uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(make([]byte, 8), 11, 0, 1, 8, 0), d)
}

// sendOne sends one message when the honest side is at work.
func sendOne(tag byte, body []byte) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		p.sendRaw(tag, body)
		return nil
	}
}

func sendFrame(f drivers.Frame) func(*peer) error {
	return sendOne(f.Tag(), append(f.AppendHeader(nil), f.Payload...))
}

// harmless does what must not end the link, and checks that it lives.
func harmless(f func(*peer)) func(*peer) error {
	return func(p *peer) error {
		f(p)
		return p.probe()
	}
}

// answerAll answers each request by f.
func answerAll(f func(*peer, drivers.Frame)) func(*peer) error {
	return func(p *peer) error {
		for {
			request, err := p.request()
			if err != nil {
				return nil // the honest side has had enough
			}
			f(p, request)
		}
	}
}

// neverAnswer reads all that comes.
func neverAnswer(p *peer) error {
	for {
		if _, err := p.receive(); err != nil {
			return nil
		}
	}
}

// manyParts is an error of as many details and sentinels as a message has room for.
var manyParts = func() []byte {
	b := []byte{0xa4, 1, 2, 2, 0x61, 'm', 3, 0xb9, 0xff, 0xff} // code, message, 65535 details
	for i := range 65535 {
		b = append(b, 0x64, byte('a'+i>>12), byte('a'+i>>8&15), byte('a'+i>>4&15), byte('a'+i&15), 0x60)
	}
	b = append(b, 5, 0x99, 0xff, 0xff) // sentinels
	for range 65535 {
		b = append(b, 0x61, 's')
	}
	return b
}()

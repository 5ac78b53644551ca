//go:build linux

package hostile

import (
	"math"

	"github.com/tandemipc/tandem/drivers"
)

const initial = drivers.InitialStreamWindow

// streamRows are about streams: those that the hostile side opens, and that which the honest
// side opens in rows that say so.
var streamRows = []row{
	// Openings.
	{name: "stream: an opening of 3 bytes", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{{Kind: drivers.KindOpen, Tx: tx, Method: stuckStream.Info().ID, Payload: []byte{1, 2, 3}}}
	}), end: protocol},
	{name: "stream: a window of 0", act: sendStream(func(tx uint64) []drivers.Frame { return []drivers.Frame{opening(tx, 0, nil)} }), end: protocol},
	{name: "stream: a huge window", act: sendStream(func(tx uint64) []drivers.Frame { return []drivers.Frame{opening(tx, math.MaxInt64, nil)} }), end: protocol},
	{name: "stream: too much in an opening", act: sendStream(func(tx uint64) []drivers.Frame { return []drivers.Frame{opening(tx, initial, make([]byte, initial+8))} }), end: protocol},
	{name: "stream: opened twice", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), opening(tx, initial, nil)}
	}), end: protocol},
	{name: "stream: opened as one of the other side", act: sendStream(func(tx uint64) []drivers.Frame { return []drivers.Frame{opening(tx^1, initial, nil)} }), end: protocol},
	{name: "stream: more open than may be", act: floodStreams(nil), end: protocol, memory: 256},
	{name: "stream: more open than may be, with all that their windows take", act: floodStreams(make([]byte, initial)), end: protocol, memory: 448},
	{name: "stream: for nobody, without reading", act: floodOpenings(1), end: protocol, also: []string{timeout}, memory: 256},
	{name: "stream: that end at once, without reading", act: floodOpenings(endedStream.Info().ID), end: protocol, also: []string{timeout}, memory: 256},

	// Frames for streams that there are not.
	{name: "stream: items of none", act: sendFrame(drivers.Frame{Kind: drivers.KindItems, Tx: 1 << 50, Payload: make([]byte, 8)}), end: protocol},
	{name: "stream: a window of none", act: sendFrame(drivers.Frame{Kind: drivers.KindWindow, Tx: 1<<50 | 1, Payload: make([]byte, 8)}), end: protocol},
	{name: "stream: an end of none", act: sendFrame(drivers.Frame{Kind: drivers.KindEnd, Tx: 0, Payload: []byte{0}}), end: protocol},
	{name: "stream: frames of ended ones", act: harmless(func(p *peer) {
		tx := p.nextTx()
		p.send(opening(tx, initial, nil))
		p.send(drivers.Frame{Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndGivenUp}})
		for range 1000 {
			p.send(items(tx, 0, make([]byte, 4000)))
			p.send(drivers.Frame{Kind: drivers.KindWindow, Tx: tx, Payload: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
			p.send(drivers.Frame{Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndSent}})
			p.send(drivers.Frame{Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndGivenUp}})
		}
	}), serves: true, end: right},

	// Items.
	{name: "stream: more items than the window", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), items(tx, 0, make([]byte, 4096)), items(tx, 0, make([]byte, 4096)), items(tx, 0, make([]byte, 8))}
	}), end: protocol},
	{name: "stream: one item larger than the window", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), items(tx, drivers.ItemWhole, make([]byte, maxMessage/2))}
	}), end: protocol},
	{name: "stream: items after their end", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), {Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndSent}}, items(tx, 0, make([]byte, 8))}
	}), end: protocol},
	{name: "stream: empty frames", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), items(tx, 0, nil)}
	}), end: protocol},
	{name: "stream: an empty end", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), {Kind: drivers.KindEnd, Tx: tx}}
	}), end: protocol},
	{name: "stream: ends of the wrong side", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), {Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndReturned}}}
	}), end: protocol},
	{name: "stream: an unknown end", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), {Kind: drivers.KindEnd, Tx: tx, Payload: []byte{77}}}
	}), end: protocol},
	{name: "stream: the window overflows", act: sendStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{opening(tx, initial, nil), {Kind: drivers.KindWindow, Tx: tx, Payload: []byte{255, 255, 255, 255, 255, 255, 255, 127}}}
	}), end: protocol},
	{name: "stream: malformed items", act: harmless(func(p *peer) {
		for range 100 {
			for _, f := range []drivers.Frame{items(0, 0, []byte{255, 255, 255, 255, 255, 255, 255, 255}), items(0, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0})} {
				f.Tx = p.nextTx()
				f.Method = 0
				o := opening(f.Tx, initial, nil)
				o.Method = echoStream.Info().ID
				p.send(o)
				p.send(f)
			}
		}
	}), serves: true, end: right},
	{name: "stream: items after the piece of one", act: harmless(func(p *peer) {
		tx := p.nextTx()
		p.send(opening(tx, initial, nil))
		p.send(items(tx, drivers.ItemPiece, []byte("a piece")))
		p.send(items(tx, 0, make([]byte, 8)))
	}), serves: true, end: right},
	{name: "stream: pieces without an end", act: endlessPieces, end: right},
	{name: "stream: answers that nobody takes", act: harmless(func(p *peer) {
		for range 200 {
			tx := p.nextTx()
			o := opening(tx, initial, drivers.AppendItem(nil, make([]byte, 4000)))
			o.Method = doublingStream.Info().ID
			p.send(o)
		}
	}), serves: true, end: right},

	// The stream of the honest side.
	{name: "stream: of the honest side, answered rightly", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{items(tx, 0, drivers.AppendItem(nil, []byte("x"))), ended(tx, drivers.EndReturned)}
	}), end: right},
	{name: "stream: of the honest side, more items than the window", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		// In one frame: what the honest side has read it takes again.
		return []drivers.Frame{items(tx, 0, make([]byte, initial+8))}
	}), end: protocol},
	{name: "stream: of the honest side, given up by its handler", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{ended(tx, drivers.EndGivenUp)}
	}), end: protocol},
	{name: "stream: of the honest side, malformed items", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{items(tx, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0})}
	}), end: right, also: []string{protocol}},
	{name: "stream: of the honest side, ended in the middle of an item", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{items(tx, drivers.ItemPiece, make([]byte, 8)), ended(tx, drivers.EndSent)}
	}), end: right, also: []string{protocol}},
	{name: "stream: of the honest side, ends with what is no error", streams: true, act: onStream(func(tx uint64) []drivers.Frame {
		return []drivers.Frame{ended(tx, drivers.EndFailed)}
	}), end: right, also: []string{remote}},
	{name: "stream: of the honest side, ends again and again", streams: true, act: onStream(func(tx uint64) (all []drivers.Frame) {
		all = append(all, items(tx, 0, drivers.AppendItem(nil, []byte("x"))))
		for range 100 {
			all = append(all, ended(tx, drivers.EndReturned))
		}
		return all
	}), end: right},
}

func opening(tx uint64, window int64, list []byte) drivers.Frame {
	word := drivers.AppendOpening(nil, &drivers.Opening{Window: window})
	return drivers.Frame{Kind: drivers.KindOpen, Tx: tx, Method: stuckStream.Info().ID, Payload: append(word, list...)}
}

func items(tx, how uint64, payload []byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindItems, Tx: tx, Method: how, Payload: payload}
}

func ended(tx uint64, code byte) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindEnd, Tx: tx, Payload: []byte{code}}
}

// sendStream sends the frames of a stream, when the honest side is at work.
func sendStream(frames func(tx uint64) []drivers.Frame) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		for _, f := range frames(p.nextTx()) {
			p.send(f)
		}
		return nil
	}
}

// floodStreams opens streams whose handlers do not return, until the honest side has enough.
func floodStreams(first []byte) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		for p.send(opening(p.nextTx(), initial, first)) {
		}
		return nil
	}
}

// floodOpenings opens streams that end at once, and does not read that they do.
func floodOpenings(method uint64) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		for {
			f := opening(p.nextTx(), initial, nil)
			if f.Method = method; !p.send(f) {
				return nil
			}
		}
	}
}

// answering answers the requests of the honest side, the last one when do has returned true,
// and gives do the frames.
func (p *peer) answering(do func(f drivers.Frame) (done bool)) error {
	var final *drivers.Frame
	for done := false; ; {
		f, err := p.receive()
		if err != nil {
			return nil // it has had enough
		}
		switch {
		case f.Kind == drivers.KindRequest && f.Method == last.Info().ID:
			final = &f
		case f.Kind == drivers.KindRequest:
			go p.reply(f)
		}
		done = do(f) || done
		if done && final != nil {
			p.reply(*final)
			final = nil
		}
	}
}

// onStream answers the stream of the honest side with some frames.
func onStream(frames func(tx uint64) []drivers.Frame) func(*peer) error {
	return func(p *peer) error {
		return p.answering(func(f drivers.Frame) bool {
			if f.Kind != drivers.KindOpen {
				return false
			}
			for _, f := range frames(f.Tx) {
				p.send(f)
			}
			return true
		})
	}
}

// endlessPieces sends the pieces of an item that has no end, as many as the window allows,
// until the stream has ended.
func endlessPieces(p *peer) error {
	tx, room := p.nextTx(), int64(initial)
	o := opening(tx, initial, nil)
	o.Method = echoStream.Info().ID
	p.send(o)
	fill := func() {
		for ; room >= 4008; room -= 4008 {
			p.send(items(tx, drivers.ItemPiece, make([]byte, 4000)))
		}
	}
	fill()
	return p.answering(func(f drivers.Frame) bool {
		if f.Tx == tx && f.Kind == drivers.KindWindow {
			more, _ := drivers.ParseWindow(f.Payload)
			room += more
			fill()
		}
		return f.Tx == tx && f.Kind == drivers.KindEnd
	})
}

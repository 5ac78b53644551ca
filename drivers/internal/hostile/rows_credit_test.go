//go:build linux

package hostile

import (
	"math"

	"github.com/tandemipc/tandem/drivers"
)

// creditRows are about windows: what is sent beyond one, and what is given back that was
// not got.
var creditRows = []row{
	{name: "credit: for what was never sent", act: sendFrame(credit(1<<20, 0)), end: protocol},
	{name: "credit: the most, of requests", act: sendFrame(credit(math.MaxUint64, 0)), end: protocol},
	{name: "credit: the most, of notifications", act: sendFrame(credit(0, math.MaxUint64)), end: protocol},
	{name: "credit: negative", act: sendFrame(credit(1<<63, 1<<63)), end: protocol},
	{name: "credit: never, of a small window", hello: func(p *peer) error {
		return p.link(func() error { return p.changed(func(h *drivers.Hello) { h.Window = drivers.MinWindow }) })
	}, links: true, serves: true, end: timeout},
	{name: "credit: none, in floods", act: harmless(func(p *peer) {
		for range 10_000 {
			p.send(credit(0, 0))
		}
	}), serves: true, end: right},
	{name: "credit: more notifications than the window", act: flood(drivers.KindNotify, stuck.Info().ID, 64<<10), end: protocol},
	{name: "credit: more requests than the window", act: flood(drivers.KindRequest, stuck.Info().ID, 64<<10), end: protocol, memory: 96},
	{name: "credit: more empty notifications than the window", act: flood(drivers.KindNotify, stuck.Info().ID, 0), end: protocol, memory: 160},
	{name: "credit: more empty requests than the window", act: flood(drivers.KindRequest, stuck.Info().ID, 0), end: protocol, memory: 160},
	{name: "credit: more empty requests than the window, of which few run", act: flood(drivers.KindRequest, few.Info().ID, 0), end: protocol, memory: 160},
	{name: "credit: requests for nobody, without reading", act: flood(drivers.KindRequest, 1, 0), end: protocol, also: []string{timeout}, memory: 160},
	{name: "credit: requests of the largest size", act: flood(drivers.KindRequest, stuck.Info().ID, maxMessage-drivers.MaxHeader), end: protocol, memory: 96},
	{name: "credit: more empty notifications in frames of many", act: floodOf(drivers.Frame{Kind: drivers.KindNotify, Tx: drivers.MaxPacked, Method: stuck.Info().ID, Payload: make([]byte, drivers.MaxPacked*drivers.ItemHeader)}), end: protocol, memory: 160},
	{name: "credit: more empty notifications in frames of many, of which few run", act: floodOf(drivers.Frame{Kind: drivers.KindNotify, Tx: drivers.MaxPacked, Method: few.Info().ID, Payload: make([]byte, drivers.MaxPacked*drivers.ItemHeader)}), end: protocol, memory: 160},
	{name: "credit: notifications, heeding no credit", act: harmless(func(p *peer) {
		for range 1000 {
			p.send(drivers.Frame{Kind: drivers.KindNotify, Method: told.Info().ID, Payload: make([]byte, 1000)})
		}
	}), serves: true, end: right},
}

func credit(requests, notifications uint64) drivers.Frame {
	return drivers.Frame{Kind: drivers.KindCredit, Payload: drivers.AppendCredit(nil, requests, notifications)}
}

// flood sends messages until the honest side has enough, from when that is at work.
func flood(kind drivers.Kind, method uint64, size int) func(*peer) error {
	return floodOf(drivers.Frame{Kind: kind, Method: method, Payload: make([]byte, size)})
}

func floodOf(f drivers.Frame) func(*peer) error {
	return func(p *peer) error {
		if _, err := p.request(); err != nil {
			return err
		}
		for {
			f := f
			if f.Kind == drivers.KindRequest {
				f.Tx = p.nextTx()
			}
			if !p.send(f) {
				return nil
			}
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/proto"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/orderpb"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/protocodec"
)

// codecScenario measures codecs alone, without a driver.
func codecScenario() suite.Scenario {
	s := suite.Scenario{
		Name:  "codec",
		Title: "codecs alone: an order, encoded and decoded",
		About: `One goroutine encodes a value and decodes it again, 16 times between two readings of the clock: half of what ` +
			`a call pays whose response is as large as its request. cbor and json are those of ipc, protobuf is ` +
			`ipc/protocodec, fixed copies a struct of 64 bytes. Beside them, not as codecs of ipc and without its bounds: ` +
			`encoding/json, what is to be its next version (go-json-experiment), and msgpack (vmihailenco), with the same struct. Each encodes into memory ` +
			`that is used again, if it can, and decodes into a new value. bytes is the encoded size. Ratios are to cbor.`,
		Plan: planCodecs,
	}
	for _, c := range orderCodecs() {
		s.Subjects = append(s.Subjects, c.name)
	}
	return s
}

// recoding is how a codec passes a value.
type recoding struct {
	name string
	pass func(buf []byte) (encoded []byte, err error)
	// arrives fails if what the last pass has decoded is not what it has encoded.
	arrives func() error
}

func recodingOf[T any](name string, in T, encode func([]byte, *T) ([]byte, error), decode func([]byte) (T, error), equal func(a, b T) bool) recoding {
	out := new(T)
	return recoding{
		name: name,
		pass: func(buf []byte) (b []byte, err error) {
			if b, err = encode(buf, &in); err == nil {
				*out, err = decode(b)
			}
			return b, err
		},
		arrives: func() error {
			if !equal(in, *out) {
				return fmt.Errorf("%w: %s made %v of %v", suite.ErrGarbled, name, *out, in)
			}
			return nil
		},
	}
}

// ofIPC passes a value as methods do.
func ofIPC[T any](c ipc.Codec, in T, equal func(a, b T) bool) recoding {
	return recodingOf(c.Name(), in,
		func(b []byte, v *T) ([]byte, error) { return ipc.Marshal(c, b, *v) },
		func(b []byte) (T, error) { return ipc.Unmarshal[T](c, b) }, equal)
}

// ofOthers passes an order by what is no codec of ipc.
func ofOthers(name string, encode func(*bytes.Buffer, *order) error, decode func([]byte, any) error) recoding {
	var w bytes.Buffer
	return recodingOf(name, newOrder(),
		func(_ []byte, v *order) ([]byte, error) {
			w.Reset()
			err := encode(&w, v)
			return w.Bytes(), err
		},
		func(b []byte) (v order, err error) { err = decode(b, &v); return v, err }, sameOrder)
}

func sameOrder(a, b order) bool { return reflect.DeepEqual(a, b) }

func orderCodecs() []recoding {
	pack := msgpack.NewEncoder(nil)
	pack.UseCompactInts(true)
	return []recoding{
		ofIPC(ipc.CBOR, newOrder(), sameOrder),
		ofIPC(ipc.Fixed, newTick(), func(a, b tick) bool { return a == b }),
		ofIPC(protocodec.Codec, protoOrder(newOrder()), func(a, b *orderpb.Order) bool { return proto.Equal(a, b) }),
		ofIPC(ipc.JSON, newOrder(), sameOrder),
		ofOthers("msgpack", func(w *bytes.Buffer, v *order) error {
			pack.ResetWriter(w)
			return pack.Encode(v)
		}, msgpack.Unmarshal),
		ofOthers("encoding/json", func(w *bytes.Buffer, v *order) error { return json.NewEncoder(w).Encode(v) }, json.Unmarshal),
		ofOthers("json v2", func(w *bytes.Buffer, v *order) error { return jsonv2.MarshalWrite(w, v) },
			func(b []byte, v any) error { return jsonv2.Unmarshal(b, v) }),
	}
}

// protoOrder is o for Protocol Buffers.
func protoOrder(o order) *orderpb.Order {
	p := &orderpb.Order{
		Id: o.ID, Customer: o.Customer, Email: o.Email, Placed: o.Placed, Paid: o.Paid, Tags: o.Tags, Notes: o.Notes, Total: o.Total,
		Ship: &orderpb.Address{Street: o.Ship.Street, City: o.Ship.City, Zip: o.Ship.Zip, Country: o.Ship.Country},
	}
	for _, i := range o.Items {
		p.Items = append(p.Items, &orderpb.Item{Sku: i.SKU, Name: i.Name, Quantity: int64(i.Quantity), Price: i.Price})
	}
	return p
}

func planCodecs(o *suite.Options) (suite.Plan, error) {
	var g suite.Group
	for _, c := range orderCodecs() {
		if !o.Wants(c.name) {
			continue
		}
		b, err := c.pass(nil)
		if err != nil {
			return suite.Plan{}, err
		}
		g.Cases = append(g.Cases, suite.Case{
			Result: report.Result{Scenario: "codec", Subject: c.name, Bytes: new(len(b))},
			Run: func(_ context.Context, d time.Duration) (measure.Sample, error) {
				return c.run(d, make([]byte, 0, len(b)))
			},
		})
	}
	return suite.Plan{Groups: []suite.Group{g}}, nil
}

func (c recoding) run(d time.Duration, buf []byte) (measure.Sample, error) {
	s, err := timeAlone(d, func() error { _, err := c.pass(buf); return err })
	if err != nil {
		return s, err
	}
	return s, c.arrives()
}

// timeAlone measures what needs no other process.
func timeAlone(d time.Duration, trip func() error) (measure.Sample, error) {
	s := measure.Sample{Latencies: measure.NewHistogram(1)}
	before, start := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	err := suite.TimeTrips(&s, d, suite.TripsTogether, trip)
	s.Elapsed, s.Host = measure.Now()-start, measure.Self().Since(before)
	s.Host.RSS, s.Host.Threads = 0, 0
	return s, err
}

package drivers_test

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drivers.Frame{
			Kind:      drivers.Kind(rapid.IntRange(0, 15).Draw(t, "kind")),
			Tx:        rapid.Uint64().Draw(t, "tx"),
			Method:    rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64()).Draw(t, "method"),
			Remaining: time.Duration(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, math.MaxInt64)).Draw(t, "remaining")),
			Payload:   rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		}
		dst := rapid.SliceOf(rapid.Byte()).Draw(t, "dst")
		b := in.AppendHeader(bytes.Clone(dst))
		if !bytes.Equal(b[:len(dst)], dst) {
			t.Fatal("AppendHeader changed what dst held")
		}
		header := b[len(dst):]
		if len(header) > drivers.MaxHeader {
			t.Fatalf("header of %d bytes, MaxHeader is %d", len(header), drivers.MaxHeader)
		}
		out, err := parse(in.Tag(), append(bytes.Clone(header), in.Payload...))
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Payload) == 0 {
			out.Payload = in.Payload[:0]
		}
		assert.Equal(t, in, out)

		// Whatever is cut off the header is noticed.
		for n := range header {
			if _, err := parse(in.Tag(), header[:n]); err == nil {
				t.Fatalf("%d of %d bytes of a header are taken for a frame", n, len(header))
			}
		}
	})
}

// The bytes on the wire are a promise to other versions.
func TestFrameGolden(t *testing.T) {
	for _, c := range []struct {
		frame  drivers.Frame
		tag    byte
		header string
	}{
		{drivers.Frame{Kind: drivers.KindResponse, Tx: 0x0102030405060708}, 0x02, "0807060504030201"},
		{drivers.Frame{Kind: drivers.KindRequest, Tx: 2, Method: 0xa1}, 0x11, "0200000000000000 a100000000000000"},
		{drivers.Frame{Kind: drivers.KindCancel, Tx: 1, Remaining: 256}, 0x25, "0100000000000000 0b00 01 0800 0001000000000000"},
		{drivers.Frame{Kind: drivers.KindGoodbye, Method: 1, Remaining: 1}, 0x3a, "0000000000000000 0100000000000000 0b00 01 0800 0100000000000000"},
		{drivers.Frame{Kind: drivers.KindNotify, Remaining: -5}, 0x04, "0000000000000000"},
	} {
		assert.Equal(t, c.tag, c.frame.Tag(), "tag of %+v", c.frame)
		assert.Equal(t, unhex(t, c.header), c.frame.AppendHeader(nil), "header of %+v", c.frame)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)))
	require.NoError(t, err)
	return b
}

func parse(tag byte, body []byte) (f drivers.Frame, err error) {
	f = drivers.Frame{Method: 1, Remaining: 1, Owned: true, More: true} // Parse sets all fields
	err = f.Parse(tag, body)
	return f, err
}

func TestParseMalformed(t *testing.T) {
	const tx = "0000000000000000"
	for _, c := range []struct {
		name string
		tag  byte
		body string
		want string
	}{
		{"empty", 1, "", "no room for tx"},
		{"short tx", 1, "00000000000000", "no room for tx"},
		{"reserved bit 6", 0x41, tx, "reserved bits"},
		{"reserved bit 7", 0x81, tx, "reserved bits"},
		{"no method", 0x11, tx, "no room for the method"},
		{"short method", 0x11, tx + "00000000000000", "no room for the method"},
		{"no size of extensions", 0x21, tx, "no room for the size of the extensions"},
		{"half a size of extensions", 0x21, tx + "00", "no room for the size of the extensions"},
		{"extensions longer than the body", 0x21, tx + "0100", "extensions of 1 bytes in 0"},
		{"largest extensions", 0x21, tx + "ffff" + "0108", "extensions of 65535 bytes in 2"},
		{"half an extension", 0x21, tx + "0200" + "0108", "an extension is cut short"},
		{"extension longer than the list", 0x21, tx + "0300" + "770500" + "0000000000", "extension 119 of 5 bytes in 0"},
		{"remaining time cut short", 0x21, tx + "0b00" + "010900" + "0000000000000000", "extension 1 of 9 bytes in 8"},
		{"remaining time of 4 bytes", 0x21, tx + "0700" + "010400" + "01000000", "remaining time of 4 bytes, not 8"},
		{"remaining time of 0", 0x21, tx + "0b00" + "010800" + "0000000000000000", "remaining time of 0 ns"},
		{"negative remaining time", 0x21, tx + "0b00" + "010800" + "ffffffffffffffff", "remaining time of -1 ns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(c.tag, unhex(t, c.body))
			assert.ErrorIs(t, err, ipc.ErrProtocol)
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestParseSkipsUnknownExtensions(t *testing.T) {
	body := unhex(t, "0700000000000000"+"1400"+"770300aabbcc"+"010800e803000000000000"+"000000"+"cafe")
	f, err := parse(0x21, body)
	require.NoError(t, err)
	assert.Equal(t, drivers.Frame{Kind: drivers.KindRequest, Tx: 7, Remaining: 1000, Payload: []byte{0xca, 0xfe}}, f)

	f, err = parse(0x24, unhex(t, "0100000000000000"+"0000"+"01"))
	require.NoError(t, err, "an empty list")
	assert.Equal(t, drivers.Frame{Kind: drivers.KindNotify, Tx: 1, Payload: []byte{1}}, f)
}

func TestParsePayloadIsPartOfBody(t *testing.T) {
	body := append((&drivers.Frame{Tx: 1}).AppendHeader(nil), "payload"...)
	f, err := parse(byte(drivers.KindNotify), body)
	require.NoError(t, err)
	assert.Same(t, &body[8], &f.Payload[0])
	assert.False(t, f.Owned)
}

func TestKindString(t *testing.T) {
	for k, want := range map[drivers.Kind]string{
		drivers.KindRequest: "request", drivers.KindResponse: "response", drivers.KindError: "error",
		drivers.KindNotify: "notify", drivers.KindCancel: "cancel", drivers.KindGoodbye: "goodbye",
		drivers.KindOpen: "open", drivers.KindItems: "items", drivers.KindWindow: "window", drivers.KindEnd: "end", 15: "kind(15)",
	} {
		assert.Equal(t, want, k.String())
	}
}

func TestHeaderAllocatesNothing(t *testing.T) {
	f := drivers.Frame{Kind: drivers.KindRequest, Tx: 1, Method: 2, Remaining: 3}
	buf := make([]byte, 0, drivers.MaxHeader)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		b := f.AppendHeader(buf)
		if _, err := parse(f.Tag(), b); err != nil {
			t.Error(err)
		}
	}))
}

func FuzzParseFrame(f *testing.F) {
	for _, frame := range []drivers.Frame{
		{Kind: drivers.KindRequest, Tx: 2, Method: 3, Remaining: time.Second},
		{Kind: drivers.KindResponse, Tx: 2},
		{Kind: drivers.KindError, Tx: 1, Method: math.MaxUint64},
	} {
		f.Add(frame.Tag(), append(frame.AppendHeader(nil), "payload"...))
	}
	f.Add(byte(0x21), []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x77\x02\x00ab"))
	f.Add(byte(0xff), []byte{})
	f.Fuzz(func(t *testing.T, tag byte, body []byte) {
		before := bytes.Clone(body)
		frame, err := parse(tag, body)
		if !bytes.Equal(before, body) {
			t.Fatal("Parse changed the body")
		}
		if err != nil {
			return
		}
		if frame.Remaining < 0 {
			t.Fatalf("remaining time of %d", frame.Remaining)
		}
		if !bytes.HasSuffix(body, frame.Payload) {
			t.Fatal("the payload is not the end of the body")
		}
		// What was understood survives another trip.
		again, err := parse(frame.Tag(), append(frame.AppendHeader(nil), frame.Payload...))
		if err != nil {
			t.Fatal(err)
		}
		if again.Kind != frame.Kind || again.Tx != frame.Tx || again.Method != frame.Method ||
			again.Remaining != frame.Remaining || !bytes.Equal(again.Payload, frame.Payload) {
			t.Fatalf("got %+v, want %+v", again, frame)
		}
	})
}

package drivers_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func hello() drivers.Hello {
	return drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: "shm", Codec: "cbor", ByteOrder: drivers.ByteOrderMark, Layout: 3,
		MaxMessage: drivers.DefaultMaxMessage, PID: 4711, StartTime: 99, Nonce: 1 << 63, Window: drivers.DefaultWindow,
	}
}

func encoded(t *testing.T, h drivers.Hello) []byte {
	t.Helper()
	b, err := drivers.AppendHello(nil, h)
	require.NoError(t, err)
	return b
}

func TestHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drivers.Hello{
			Protocol:   drivers.ProtocolVersion,
			Driver:     rapid.StringN(0, 100, 400).Draw(t, "driver"),
			Codec:      rapid.StringN(0, 100, 400).Draw(t, "codec"),
			ByteOrder:  rapid.Uint16().Draw(t, "byte order"),
			Layout:     rapid.Int().Draw(t, "layout"),
			MaxMessage: rapid.Int().Draw(t, "max message"),
			PID:        rapid.Int().Draw(t, "pid"),
			StartTime:  rapid.Uint64().Draw(t, "start time"),
			Nonce:      rapid.Uint64().Draw(t, "nonce"),
		}
		if rapid.Bool().Draw(t, "with driver data") {
			in.DriverData = rapid.SliceOfN(rapid.Byte(), 1, 1000).Draw(t, "driver data")
		}
		b, err := drivers.AppendHello([]byte("dst"), in)
		if err != nil {
			t.Fatal(err)
		}
		// It reads no byte too many, and needs not get it in one piece.
		r := bytes.NewReader(append(b[3:], "the first frame"...))
		out, err := drivers.ReadHello(iotest.OneByteReader(r))
		if err != nil {
			t.Fatal(err)
		}
		assert.Equal(t, in, out)
		rest, _ := io.ReadAll(r)
		assert.Equal(t, "the first frame", string(rest))
	})
}

// The prelude is a promise to all versions, past and future.
func TestHelloGolden(t *testing.T) {
	b := encoded(t, drivers.Hello{Protocol: drivers.ProtocolVersion})
	assert.Equal(t, "TANDEM\r\n\x05\x00\x01\x00", string(b[:12]))
	assert.Equal(t, len(b)-16, int(b[12])|int(b[13])<<8)
	assert.Equal(t, "TANDEM\r\n\x05\x00\x02\x00\x03\x00\x00\x00why", string(drivers.AppendRefusal(nil, "why")))
}

func TestHelloTooLarge(t *testing.T) {
	h := hello()
	h.DriverData = make([]byte, 5000)
	_, err := drivers.AppendHello(nil, h)
	assert.ErrorContains(t, err, "largest allowed 4096")
}

func TestRefusal(t *testing.T) {
	_, err := drivers.ReadHello(bytes.NewReader(drivers.AppendRefusal(nil, "the driver is not linked in")))
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "the driver is not linked in", refused.Reason)
	assert.EqualError(t, err, "tandem: refused by the other side: the driver is not linked in")

	_, err = drivers.ReadHello(bytes.NewReader(drivers.AppendRefusal(nil, strings.Repeat("x", 10_000))))
	require.ErrorAs(t, err, &refused)
	assert.Len(t, refused.Reason, 4096, "a long reason is cut")

	_, err = drivers.ReadHello(bytes.NewReader(drivers.AppendReason(nil, errors.New("why"))))
	assert.Equal(t, &ipc.RefusedError{Reason: "why"}, err)
	short := &ipc.ExhaustedError{Resource: "open files", Err: syscall.EMFILE}
	_, err = drivers.ReadHello(bytes.NewReader(drivers.AppendReason(nil, fmt.Errorf("tandem: open: %w", short))))
	assert.Equal(t, &ipc.RefusedError{Reason: "tandem: open: " + short.Error(), Code: ipc.CodeResourceExhausted}, err)
	mismatch := &ipc.MismatchError{What: "codec", Local: "json", Remote: "cbor"}
	_, err = drivers.ReadHello(bytes.NewReader(drivers.AppendReason(nil, fmt.Errorf("tandem: open: %w", mismatch))))
	assert.Equal(t, &ipc.RefusedError{Reason: "tandem: open: " + mismatch.Error(), Code: ipc.CodeFailedPrecondition}, err)
	for code := range 256 { // any other code is none
		b := drivers.AppendRefusal(nil, "why")
		b[14], b[15] = byte(code), 1
		_, err = drivers.ReadHello(bytes.NewReader(b))
		assert.Equal(t, &ipc.RefusedError{Reason: "why"}, err)
	}

	b := drivers.AppendRefusal(nil, "of another version")
	b[8] = 77
	_, err = drivers.ReadHello(bytes.NewReader(b))
	require.ErrorAs(t, err, &refused, "a refusal is understood whatever the version")
}

func TestReady(t *testing.T) {
	ready := drivers.AppendReady(nil)
	assert.Equal(t, "TANDEM\r\n\x05\x00\x04\x00\x00\x00\x00\x00", string(ready))
	r := bytes.NewReader(append(ready, "rest"...))
	require.NoError(t, drivers.ReadReady(r))
	rest, _ := io.ReadAll(r)
	assert.Equal(t, "rest", string(rest))
	_, err := drivers.ReadHello(bytes.NewReader(ready))
	assert.ErrorIs(t, err, ipc.ErrProtocol, "it is no hello")

	for name, c := range map[string]struct {
		in []byte
		is error
	}{
		"nothing":        {nil, io.EOF},
		"a part":         {ready[:5], io.ErrUnexpectedEOF},
		"a hello":        {encoded(t, hello()), ipc.ErrProtocol},
		"a queue":        {drivers.AppendQueued(nil), ipc.ErrProtocol},
		"something else": {[]byte("HTTP/1.1 400 Bad Request"), ipc.ErrProtocol},
		"a shortage":     {drivers.AppendReason(nil, ipc.ErrExhausted), ipc.ErrExhausted},
	} {
		assert.ErrorIs(t, drivers.ReadReady(bytes.NewReader(c.in)), c.is, name)
	}
	var refused *ipc.RefusedError
	require.ErrorAs(t, drivers.ReadReady(bytes.NewReader(drivers.AppendRefusal(nil, "why"))), &refused)
	assert.Equal(t, "why", refused.Reason)
}

func TestReadHelloOfOtherVersion(t *testing.T) {
	h := hello()
	h.Protocol = 513
	b := encoded(t, h)
	for i := range b[16:] {
		b[16+i] = 0xff // the body may be anything
	}
	_, err := drivers.ReadHello(bytes.NewReader(b))
	var m *ipc.MismatchError
	require.ErrorAs(t, err, &m)
	assert.Equal(t, ipc.MismatchError{What: "protocol version", Local: strconv.Itoa(drivers.ProtocolVersion), Remote: "513"}, *m)
}

func TestReadHelloHostile(t *testing.T) {
	good := encoded(t, hello())
	edit := func(at int, b ...byte) []byte {
		out := bytes.Clone(good)
		copy(out[at:], b)
		return out
	}
	body := func(b string) []byte {
		return append(edit(12, byte(len(b)), byte(len(b)>>8))[:16], b...)
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"other magic", edit(0, []byte("HTTP/1.1")...), `peer does not speak tandem: it opened with "HTTP/1.1"`},
		{"magic that a text transfer has changed", edit(6, '\n', 0), "does not speak tandem"},
		{"zeros", make([]byte, 16), "does not speak tandem"},
		{"body of 4097", append(edit(12, 0x01, 0x10), make([]byte, 8000)...), "hello of 4097 bytes, largest allowed 4096"},
		{"body of 65535", edit(12, 0xff, 0xff), "hello of 65535 bytes, largest allowed 4096"},
		{"refusal of 65535", edit(10, 2, 0, 0xff, 0xff), "hello of 65535 bytes, largest allowed 4096"},
		{"kind 0", edit(10, 0, 0), "hello of kind 0"},
		{"kind 4", edit(10, 4, 0), "hello of kind 4"},
		{"no body", body(""), "hello cannot be read"},
		{"body of another type", body("\x01"), "hello cannot be read"},
		{"body with a key twice", body("\xa2\x06\x01\x06\x02"), "hello cannot be read"},
		{"body with a wrong type", body("\xa1\x06\x61x"), "hello cannot be read"},
		{"body of indefinite length", body("\xbf\x06\x01\xff"), "hello cannot be read"},
		{"deep body", body(strings.Repeat("\x81", 100) + "\x00"), "hello cannot be read"},
		{"two bodies", body("\xa0\xa0"), "hello cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := drivers.ReadHello(bytes.NewReader(c.in))
			assert.ErrorIs(t, err, ipc.ErrProtocol)
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestReadHelloTruncated(t *testing.T) {
	good := encoded(t, hello())
	for n := range good {
		_, err := drivers.ReadHello(bytes.NewReader(good[:n]))
		if n == 0 {
			assert.Equal(t, io.EOF, err)
		} else {
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d of %d bytes", n, len(good))
		}
	}
}

func TestAgree(t *testing.T) {
	local := hello()
	remote := hello()
	remote.PID, remote.StartTime, remote.Nonce, remote.MaxMessage = 1, 2, 3, drivers.MinMaxMessage
	remote.DriverData = []byte("theirs")
	assert.NoError(t, drivers.Agree(local, remote), "what names a process may differ")

	for _, c := range []struct {
		edit func(*drivers.Hello)
		want ipc.MismatchError
	}{
		{func(h *drivers.Hello) { h.Protocol = 1 }, ipc.MismatchError{What: "protocol version", Local: strconv.Itoa(drivers.ProtocolVersion), Remote: "1"}},
		{func(h *drivers.Hello) { h.Driver = "socket" }, ipc.MismatchError{What: "driver", Local: "shm", Remote: "socket"}},
		{func(h *drivers.Hello) { h.Codec = "json" }, ipc.MismatchError{What: "codec", Local: "cbor", Remote: "json"}},
		{func(h *drivers.Hello) { h.Layout = 4 }, ipc.MismatchError{What: "layout version", Local: "3", Remote: "4"}},
	} {
		remote := hello()
		c.edit(&remote)
		err := drivers.Agree(local, remote)
		var m *ipc.MismatchError
		require.ErrorAs(t, err, &m)
		assert.Equal(t, c.want, *m)
		assert.EqualError(t, err, "tandem: "+c.want.What+" mismatch: this side has "+c.want.Local+", the other side has "+c.want.Remote)

		require.ErrorAs(t, drivers.Agree(remote, local), &m, "the other side sees it too")
		assert.Equal(t, ipc.MismatchError{What: c.want.What, Local: c.want.Remote, Remote: c.want.Local}, *m)
	}

	remote = hello()
	remote.ByteOrder = ^remote.ByteOrder
	var m *ipc.MismatchError
	require.ErrorAs(t, drivers.Agree(local, remote), &m)
	assert.Equal(t, "byte order", m.What)
	assert.NotEqual(t, m.Local, m.Remote)

	for _, n := range []int{-1, 0, drivers.MinMaxMessage - 1} {
		remote = hello()
		remote.MaxMessage = n
		assert.ErrorIs(t, drivers.Agree(local, remote), ipc.ErrProtocol)
	}
}

func FuzzReadHello(f *testing.F) {
	b, _ := drivers.AppendHello(nil, hello())
	f.Add(b)
	f.Add(drivers.AppendRefusal(nil, "why"))
	f.Add(drivers.AppendReason(nil, ipc.ErrExhausted))
	f.Add(drivers.AppendReady(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := drivers.ReadHello(bytes.NewReader(b))
		if err == nil {
			_ = drivers.Agree(hello(), h)
		}
		_ = drivers.ReadReady(bytes.NewReader(b))
	})
}

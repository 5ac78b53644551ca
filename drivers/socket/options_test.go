//go:build linux

package socket_test

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
)

// option is a value of a field, and what Spawn makes of it: an error with these
// words and the name of the field, or a worker that works if want is "".
type option struct {
	value any
	want  string
}

var (
	bools   = []option{{false, ""}, {true, ""}}
	moments = func(name string) []option {
		return []option{
			{time.Duration(0), ""}, {time.Duration(1), ""}, {time.Duration(math.MaxInt64), ""}, {time.Duration(math.MaxInt64 - 1), ""},
			{time.Duration(-1), name}, {time.Duration(math.MinInt64), name},
		}
	}
)

// options has every field of Driver, and the fields of those that are structs.
var options = map[string][]option{
	"Path": {
		{"", ""}, {"\x00", "has a zero byte"}, {"a\x00b", "has a zero byte"}, {"/", "is a directory"}, {".", "not a socket"},
		{strings.Repeat("x", 1<<20), "largest allowed 107"},
	},
	"Detached": bools,
	"OnDisconnect": {
		{socket.Shutdown, ""}, {socket.KeepAlive, ""}, {socket.OnDisconnect(2), "Driver.OnDisconnect is 2"}, {socket.OnDisconnect(255), "Driver.OnDisconnect is 255"},
	},
	"HostTimeout": {
		{time.Duration(0), ""}, {time.Duration(math.MaxInt64), ""}, {time.Duration(math.MaxInt64 - 1), ""},
		{time.Duration(-1), "Driver.HostTimeout is -1ns"}, {time.Duration(math.MinInt64), "Driver.HostTimeout is -"},
	},
	"SecondHost": {
		{socket.Refuse, ""}, {socket.Queue, ""}, {socket.SecondHost(2), "Driver.SecondHost is 2"}, {socket.SecondHost(255), "Driver.SecondHost is 255"},
	},
	"Connect.Attempts": {
		{0, ""}, {1, ""}, {math.MaxInt, ""}, {-1, "Connect.Attempts is -1"}, {math.MinInt, "Connect.Attempts is -"},
	},
	"Connect.Delay":    moments("Connect.Delay is -"),
	"Connect.MaxDelay": moments("Connect.MaxDelay is -"),
	"Connect.DelayFunc": {
		{(func(int) time.Duration)(nil), ""},
		{func(int) time.Duration { return math.MinInt64 }, ""}, {func(int) time.Duration { return math.MaxInt64 }, ""},
	},
	"Connect.Auto":    bools,
	"Connect.OnState": {{(func(socket.State))(nil), ""}, {func(socket.State) {}, ""}},
}

// fieldPaths returns the fields of a struct, and of the structs in it.
func fieldPaths(typ reflect.Type, prefix string) []string {
	var paths []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Type.Kind() == reflect.Struct {
			paths = append(paths, fieldPaths(f.Type, prefix+f.Name+".")...)
		} else {
			paths = append(paths, prefix+f.Name)
		}
	}
	return paths
}

func TestOptionsAtTheEndsOfTheirTypes(t *testing.T) {
	for _, path := range fieldPaths(reflect.TypeFor[socket.Driver](), "") {
		require.Contains(t, options, path, "the table lacks a field")
	}
	for path, values := range options {
		for _, o := range values {
			t.Run(fmt.Sprintf("%s=%.20v", path, o.value), func(t *testing.T) {
				t.Chdir(t.TempDir())
				d := socket.Driver{Detached: path == "OnDisconnect" || path == "HostTimeout"}
				field := reflect.ValueOf(&d).Elem()
				for name := range strings.SplitSeq(path, ".") {
					field = field.FieldByName(name)
				}
				field.Set(reflect.ValueOf(o.value))
				cmd := command(t, "echo", "")
				ch, err := d.Spawn(testContext(t), cmd)
				if o.want != "" {
					require.ErrorContains(t, err, o.want)
					name := path
					if !strings.Contains(path, ".") {
						name = "Driver." + path
					}
					require.ErrorContains(t, err, name, "the error names the field")
					require.Less(t, len(err.Error()), 1000)
					require.Nil(t, cmd.Cmd.Process, "nothing was started")
					return
				}
				require.NoError(t, err)
				h := &host{Channel: ch, t: t, ctx: testContext(t)}
				ch.Links(func(l drivers.Link) { h.links = append(h.links, l) })
				h.works()
				require.NoError(t, h.Disconnect())
				require.NoError(t, h.Reconnect(h.ctx))
				h.works()
				h.kill()
				for _, l := range h.links {
					require.NoError(t, l.Close())
				}
				require.NoError(t, ch.Close())
				limit := d.Connect.MaxDelay
				if limit == 0 {
					limit = 5 * time.Second
				}
				delays := d.Connect.Delays()
				for n := range 100 {
					pause := delays(n + 1)
					require.GreaterOrEqual(t, pause, time.Duration(0))
					require.LessOrEqual(t, pause, limit)
					if d.Connect.Delay > time.Hour {
						require.GreaterOrEqual(t, pause, limit/2, "a long pause is none")
					}
				}
			})
		}
	}
}

// Attach takes the same Connect.
func TestAttachChecksConnect(t *testing.T) {
	for path, values := range options {
		name, ok := strings.CutPrefix(path, "Connect.")
		for _, o := range values {
			if !ok || o.want == "" {
				continue
			}
			var c socket.Connect
			reflect.ValueOf(&c).Elem().FieldByName(name).Set(reflect.ValueOf(o.value))
			_, err := socket.Attach(testContext(t), aRef(), c, nil)
			require.ErrorContains(t, err, o.want)
		}
	}
}

// A field that has no meaning beside the others is an error.
func TestContradictoryOptions(t *testing.T) {
	for want, d := range map[string]socket.Driver{
		"Driver.OnDisconnect is KeepAlive": {OnDisconnect: socket.KeepAlive},
		"use worker.WithHostTimeout":       {HostTimeout: time.Second},
	} {
		_, err := d.Spawn(testContext(t), command(t, "echo", ""))
		require.ErrorContains(t, err, want)
	}
}

func TestLinksNeedsAFunction(t *testing.T) {
	ch, err := socket.Driver{}.Spawn(testContext(t), command(t, "echo", ""))
	require.NoError(t, err)
	require.PanicsWithValue(t, "tandem: socket: Channel.Links is called with a nil function", func() { ch.Links(nil) })
	ch.Links(func(l drivers.Link) { require.NoError(t, l.Close()) })
	require.NoError(t, ch.Process().Signal(os.Kill))
	<-ch.Process().Done()
	require.NoError(t, ch.Close())
}

func TestWindowAtTheEndsOfItsType(t *testing.T) {
	for _, n := range []int{-1, 1, math.MinInt, drivers.MinWindow - 1, drivers.MaxWindow + 1} {
		cmd := command(t, "echo", "")
		cmd.Startup.Window = n
		_, err := socket.Driver{}.Spawn(testContext(t), cmd)
		require.ErrorContains(t, err, fmt.Sprintf("window of %d bytes, allowed are 65536 to 1073741824", n))
	}
}

func TestMaxMessageAtTheEndsOfItsType(t *testing.T) {
	for _, n := range []int{-1, 1, math.MinInt, drivers.MinMaxMessage - 1, drivers.MaxMaxMessage + 1, math.MaxInt} {
		cmd := command(t, "echo", "")
		cmd.Startup.MaxMessage = n
		_, err := socket.Driver{}.Spawn(testContext(t), cmd)
		require.ErrorContains(t, err, fmt.Sprintf("largest message of %d bytes, allowed are 4096 to 2147483631", n))
	}
}

// A reference whose numbers are near the ends of their types names no worker.
func TestRefAtTheEndsOfItsTypes(t *testing.T) {
	beyond := int64(1) << 32
	for name, spoil := range map[string]func(*socket.Ref){
		"process id": func(r *socket.Ref) { r.PID = int(beyond) },
		"pid":        func(r *socket.Ref) { r.PID = math.MinInt },
		"user":       func(r *socket.Ref) { r.UID = int(beyond) },
		"uid":        func(r *socket.Ref) { r.UID = math.MinInt },
		"message":    func(r *socket.Ref) { r.MaxMessage = math.MaxInt },
		"window":     func(r *socket.Ref) { r.Window = math.MaxInt },
		"start":      func(r *socket.Ref) { r.Timeouts.Start = math.MinInt64 },
		"host":       func(r *socket.Ref) { r.Timeouts.Host = -1 },
		"call":       func(r *socket.Ref) { r.Timeouts.Call = math.MinInt64 },
		"grace":      func(r *socket.Ref) { r.Timeouts.Grace = -1 },
		"resume":     func(r *socket.Ref) { r.Resume = math.MinInt },
	} {
		r := aRef()
		spoil(&r)
		_, err := r.MarshalText()
		require.ErrorIs(t, err, socket.ErrBadRef, name)
		_, err = socket.Attach(testContext(t), r, socket.Connect{}, nil)
		require.ErrorIs(t, err, socket.ErrBadRef, name)
	}
}

package shm

import (
	"fmt"
	"math"
	"os/exec"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

// options has every field of Driver, with values near the ends of its type, and what
// the error of Spawn says, "" for none.
var options = map[string][]struct {
	value any
	want  string
}{
	"RingSize": {
		{0, ""}, {ring.MinSize, ""}, {ring.MinSize + 1, ""}, {ring.MaxSize - 1, ""}, {ring.MaxSize, ""},
		{-1, "Driver.RingSize is -1 bytes"}, {1, "Driver.RingSize is 1 bytes"}, {ring.MinSize - 1, "Driver.RingSize is"},
		{ring.MaxSize + 1, "Driver.RingSize is"}, {math.MaxInt, "Driver.RingSize is"}, {math.MinInt, "Driver.RingSize is"},
	},
	"Wait": {
		{Adaptive, ""}, {Spin, ""}, {Park, ""},
		{Wait(-1), "Driver.Wait is -1"}, {Wait(3), "Driver.Wait is 3"}, {Wait(math.MaxInt), "Driver.Wait is"}, {Wait(math.MinInt), "Driver.Wait is"},
	},
	"Prefault": {{false, ""}, {true, ""}},
}

func TestOptionsAtTheEndsOfTheirTypes(t *testing.T) {
	typ := reflect.TypeFor[Driver]()
	for i := range typ.NumField() {
		require.Contains(t, options, typ.Field(i).Name, "the table lacks a field")
	}
	for field, values := range options {
		for _, o := range values {
			t.Run(fmt.Sprintf("%s=%v", field, o.value), func(t *testing.T) {
				var d Driver
				reflect.ValueOf(&d).Elem().FieldByName(field).Set(reflect.ValueOf(o.value))
				completed, err := d.complete()
				if o.want == "" {
					require.NoError(t, err)
					require.GreaterOrEqual(t, completed.RingSize, max(d.RingSize, ring.MinSize))
					require.LessOrEqual(t, completed.RingSize, ring.MaxSize)
					require.Zero(t, completed.RingSize&(completed.RingSize-1), "no power of two")
					return
				}
				require.ErrorContains(t, err, o.want)
				_, spawnErr := d.Spawn(t.Context(), &drivers.Command{Cmd: exec.Command("/no/such/program")})
				require.EqualError(t, spawnErr, err.Error())

				// A worker checks what its host sends, too.
				data, marshalErr := ipc.CBOR.Append(nil, workerOptions(d))
				require.NoError(t, marshalErr)
				_, openErr := Driver{}.Open(&drivers.StartupData{DriverData: data}, nil)
				require.EqualError(t, openErr, err.Error())
			})
		}
	}
}

func TestMaxMessageAtTheEndsOfItsType(t *testing.T) {
	if supported() != nil {
		t.Skip("this system has no shared memory")
	}
	for _, n := range []int{-1, 1, math.MinInt, drivers.MinMaxMessage - 1, drivers.MaxMaxMessage + 1, math.MaxInt} {
		_, err := Driver{}.Spawn(t.Context(), &drivers.Command{Cmd: exec.Command("/no/such/program"), Startup: drivers.StartupData{MaxMessage: n}})
		require.ErrorContains(t, err, fmt.Sprintf("largest message of %d bytes", n))
	}
}

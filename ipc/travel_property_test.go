package ipc_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

// Whatever type a method has, and whatever value is sent: it arrives the same, or whoever declares the
// method or sends the value is told. It never ends the process.
func TestValuesArriveOrAreRefused(t *testing.T) {
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		t.Run(codec.Name(), func(t *testing.T) {
			outcomes := make(map[string]int)
			rapid.Check(t, func(t *rapid.T) {
				for range 20 {
					typ := genType(rapid.IntRange(0, 3).Draw(t, "depth")).Draw(t, "type")
					outcomes[travel(t, codec, typ)]++
				}
			})
			t.Log(outcomes)
			for _, outcome := range []string{"declared", "encoded", "arrives"} {
				if outcomes[outcome] == 0 {
					t.Errorf("no value was tried whose outcome is %q", outcome)
				}
			}
		})
	}
}

// travel sends a random value of a type, and returns what came of it: its type was refused when it
// was "declared", the value when it was "encoded", or "decoded", or it "arrives".
func travel(t *rapid.T, codec ipc.Codec, typ reflect.Type) string {
	if ipc.CheckTravels(typ, codec) != nil {
		return "declared"
	}
	in := reflect.New(typ)
	fill(t, in.Elem(), 0)
	b, err := codec.Append(nil, in.Interface())
	if err != nil {
		return "encoded"
	}
	out := reflect.New(typ)
	if err := codec.Decode(b, out.Interface()); err != nil {
		if strings.Contains(err.Error(), " for time.Time") || err.Error() == "invalid oid" || strings.Contains(err.Error(), "duplicate map key") && strings.Contains(fmt.Sprint(typ), "time.Time") {
			return "decoded" // a year beyond 9999; an empty x509.OID; keys of one moment in two zones
		}
		t.Fatalf("%s: %v: sent %s as %q, and it cannot be decoded: %v", codec.Name(), typ, describe(in), b, err)
	}
	if !same(in.Elem(), out.Elem()) {
		t.Fatalf("%s: %v: %s was sent as %q and arrived as %s", codec.Name(), typ, describe(in), b, describe(out))
	}
	return "arrives"
}

func describe(v reflect.Value) string { return fmt.Sprintf("%+v (%s)", v.Elem(), normal(v)) }

package ipc

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"time"
	"unicode/utf8"
)

// look goes through a value before it is encoded, for what its type does not say.
type look struct{ json bool }

// check fails if v would not arrive, or as something else: if it is nested deeper than
// maxDepth, as it is if it contains itself; if what an any holds cannot cross; or if codec
// json would change it.
func (l look) check(v reflect.Value, depth int, copied bool) error {
	if depth > maxDepth {
		return fmt.Errorf("tandem: value is nested deeper than %d levels, or contains itself", maxDepth)
	}
	if !v.IsValid() || !travelsOf(v.Type(), l.json, copied).look {
		return nil // its type has said all
	}
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			return nil
		}
		inner := v.Elem()
		if err := l.held(inner); err != nil {
			return err
		}
		return l.check(inner, depth+1, true)
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return l.check(v.Elem(), depth+1, false) // a pointer is no level, but may go round in a circle
	case reflect.Struct:
		if t, ok := exported(v).(time.Time); ok && l.json {
			if _, offset := t.Zone(); offset%60 != 0 {
				return fmt.Errorf("tandem: codec json loses the seconds of the zone of %v: use its UTC()", t)
			}
			return nil
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); (f.IsExported() || f.Anonymous) && !ignored(f, l.json) {
				if err := l.check(v.Field(i), depth+1, copied); err != nil {
					return err
				}
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := l.check(v.Index(i), depth+1, copied && v.Kind() == reflect.Array); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := l.check(it.Key(), depth+1, true); err != nil {
				return err
			}
			if key := it.Key(); key.Kind() == reflect.Interface && !key.IsNil() {
				if err := heldKey(key.Elem().Type()); err != nil {
					return err
				}
			}
			if err := l.check(it.Value(), depth+1, true); err != nil {
				return err
			}
		}
	case reflect.String:
		if v.Len() == 0 {
			return fmt.Errorf("tandem: codec json makes 0 of an empty json.Number")
		}
	}
	return nil
}

// held fails if an any cannot hold v: its type is not known before.
func (l look) held(v reflect.Value) error {
	if Carries(v.Type()) {
		return fmt.Errorf("tandem: an any holds a %v, and a Buffer or a File in an any would not arrive: use a type instead", v.Type())
	}
	if err := travelsOf(v.Type(), l.json, true).err; err != nil {
		return fmt.Errorf("tandem: value in an any: %w", err)
	}
	if !l.json {
		return nil
	}
	exact := true
	const most = 1 << 53 // what follows is not in every float64
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		exact = max(v.Int(), -v.Int()) <= most && v.Int() != math.MinInt64
	case reflect.Uint, reflect.Uint64, reflect.Uintptr:
		exact = v.Uint() <= most
	case reflect.Pointer:
		if n, ok := exported(v).(*big.Int); ok && n != nil {
			exact = n.CmpAbs(big.NewInt(most)) <= 0
		}
	}
	if !exact {
		return fmt.Errorf("tandem: codec json makes a float64 of %v in an any, which is not exact: use a string, or a type instead of any", v)
	}
	return nil
}

// heldKey fails if a value of t cannot be a key that arrives in an any.
func heldKey(t reflect.Type) error {
	p := reflect.PointerTo(t)
	switch k := t.Kind(); {
	case t == reflect.TypeFor[time.Time]():
		return nil
	case p.Implements(cborPairs[0].encode) || p.Implements(cborPairs[1].encode):
	case k == reflect.String || k >= reflect.Bool && k <= reflect.Float64 || t.Implements(textPair.encode) && k != reflect.Pointer:
		return nil
	}
	return fmt.Errorf("tandem: %v is the key of a map, in an any, and would arrive as something that cannot be one", t)
}

// exported returns what v holds, nil if it is a field that is not exported.
func exported(v reflect.Value) any {
	if !v.CanInterface() {
		return nil
	}
	return v.Interface()
}

// checkJSONText fails if v, which b is the encoding of, has text that is not UTF-8: encoding/json writes
// \ufffd for each byte of it that is wrong.
func checkJSONText(b []byte, v any) error {
	if !bytes.Contains(b, []byte(`\ufffd`)) {
		return nil
	}
	return checkText(reflect.ValueOf(v))
}

func checkText(v reflect.Value) error {
	text := ""
	if v.IsValid() && v.CanInterface() && v.Kind() != reflect.Interface && v.Kind() != reflect.Pointer {
		own := v.Interface()
		if v.CanAddr() {
			own = v.Addr().Interface()
		}
		switch own := own.(type) {
		case json.Marshaler:
			return nil // what it writes is its own
		case encoding.TextMarshaler:
			b, err := own.MarshalText()
			if err != nil {
				return err
			}
			text, v = string(b), reflect.Value{}
		}
	}
	switch v.Kind() {
	case reflect.String:
		text = v.String()
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			return checkText(v.Elem())
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type(), true).list {
			if inner, err := v.FieldByIndexErr(f.index); err == nil {
				if err := checkText(inner); err != nil {
					return err
				}
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := checkText(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			for _, part := range []reflect.Value{it.Key(), it.Value()} {
				if err := checkText(part); err != nil {
					return err
				}
			}
		}
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("tandem: codec json changes text that is not UTF-8, as %q: use []byte, or codec cbor", text)
	}
	return nil
}

package ipc_test

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// same reports whether b is what arrives if a was sent. What may differ:
//
//   - a pointer to nil, or to the zero time, arrives as nil;
//   - a field that is left out arrives as zero: one that is tagged so or empty, not exported, or
//     hidden by another of its name;
//   - NaN arrives as NaN, and a time as the same moment;
//   - in an any, numbers keep their value, and all else arrives as text, bytes, a list or a map.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Interface {
		return normal(a) == normal(b) || b.Kind() == reflect.Interface && looseAny(a, b)
	}
	switch x := a.Interface().(type) {
	case time.Time:
		return x.Equal(b.Interface().(time.Time))
	case big.Int, big.Rat, regexp.Regexp:
		return textOf(a) == textOf(b)
	}
	if _, ok := reflect.New(a.Type()).Interface().(encoding.TextUnmarshaler); ok && a.Kind() == reflect.Slice {
		return textOf(a) == textOf(b)
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return isNil(a) && isNil(b)
		}
		return same(a.Elem(), b.Elem())
	case reflect.Float32, reflect.Float64:
		return a.Float() == b.Float() || math.IsNaN(a.Float()) && math.IsNaN(b.Float())
	case reflect.Slice:
		if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
			return false
		}
		fallthrough
	case reflect.Array:
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			if elem := b.MapIndex(it.Key()); !elem.IsValid() || !same(it.Value(), elem) {
				return normal(a) == normal(b)
			}
		}
		return true
	case reflect.Struct:
		if _, ok := reflect.New(a.Type()).Interface().(encoding.TextUnmarshaler); ok {
			return textOf(a) == textOf(b)
		}
		for i := range a.NumField() {
			f := a.Type().Field(i)
			if f.PkgPath != "" && !f.Anonymous || leftOut(f, a.Field(i)) && b.Field(i).IsZero() {
				continue
			}
			if !f.IsExported() { // embedded
				if fmt.Sprint(a.Field(i)) != fmt.Sprint(b.Field(i)) {
					return false
				}
				continue
			}
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func isNil(v reflect.Value) bool {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return true
		}
		v = v.Elem()
		if v.Type() == reflect.TypeFor[time.Time]() && v.CanInterface() && v.Interface().(time.Time).IsZero() {
			return true
		}
	}
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.IsNil()
}

func leftOut(f reflect.StructField, v reflect.Value) bool {
	for _, tag := range []string{f.Tag.Get("cbor"), f.Tag.Get("json")} {
		if tag == "-" {
			return true
		}
		if !strings.Contains(tag, "omit") {
			continue
		}
		if z, ok := v.Interface().(interface{ IsZero() bool }); ok && strings.Contains(tag, "omitzero") && !(v.Kind() == reflect.Pointer && v.IsNil()) && z.IsZero() {
			return true
		}
		if strings.Contains(tag, "omit") && (v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 || v.Kind() == reflect.Map && v.Len() == 0 || v.Kind() == reflect.Float64 && v.Float() == 0 || isNil(v) || v.Kind() == reflect.Struct || v.Kind() == reflect.Array) {
			return v.Kind() != reflect.Struct || emptyStruct(v)
		}
	}
	return false
}

// emptyStruct reports whether all that v has is empty, too.
func emptyStruct(v reflect.Value) bool {
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.IsZero() && !((f.Kind() == reflect.Slice || f.Kind() == reflect.Map) && f.Len() == 0) && !leftOut(v.Type().Field(i), f) && !isNil(f) && !(f.Kind() == reflect.Struct && emptyStruct(f)) {
			return false
		}
	}
	return true
}

func textOf(v reflect.Value) string {
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	switch x := p.Interface().(type) {
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err != nil {
			return err.Error()
		}
		return string(b)
	case encoding.BinaryMarshaler:
		b, err := x.MarshalBinary()
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	return fmt.Sprint(p)
}

// normal describes a value so that two descriptions are equal if the values are the same, whatever
// their types are.
func normal(v reflect.Value) string {
	for v.IsValid() && (v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer && !isNil(v)) {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() == reflect.Pointer {
		return "nil"
	}
	switch x := v.Interface().(type) {
	case time.Time:
		return "time " + x.UTC().Format(time.RFC3339Nano)
	case big.Int:
		return number(new(big.Float).SetInt(&x))
	case json.Number:
		return fmt.Sprintf("%q", string(x))
	}
	if v.Kind() != reflect.Interface {
		switch reflect.New(v.Type()).Interface().(type) {
		case encoding.TextMarshaler, encoding.BinaryMarshaler:
			return fmt.Sprintf("%q", textOf(v))
		}
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return number(new(big.Float).SetInt64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return number(new(big.Float).SetInt(new(big.Int).SetUint64(v.Uint())))
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); !math.IsNaN(f) {
			return number(big.NewFloat(f))
		}
		return "NaN"
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	case reflect.Slice, reflect.Array:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, normal(v.Index(i)))
		}
		if v.Kind() == reflect.Slice && v.IsNil() {
			return "nil"
		}
		return "[" + strings.Join(parts, ";") + "]"
	case reflect.Map:
		var parts []string
		for it := v.MapRange(); it.Next(); {
			parts = append(parts, normal(it.Key())+":"+normal(it.Value()))
		}
		if v.IsNil() {
			return "nil"
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, ";") + "}"
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && !leftOut(f, v.Field(i)) {
				parts = append(parts, fmt.Sprintf("%q", f.Name)+":"+normal(v.Field(i)))
			}
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, ";") + "}"
	}
	return fmt.Sprint(v)
}

func number(f *big.Float) string {
	if f.Sign() == 0 {
		return "0"
	}
	return f.Text('p', 0)
}

// looseAny reports whether b is a in another form that the any of the receiver takes: text or bytes
// for what encodes itself, base64 for bytes, text for the key of a map.
func looseAny(a, b reflect.Value) bool {
	x := a
	for x.IsValid() && (x.Kind() == reflect.Interface || x.Kind() == reflect.Pointer) && !x.IsNil() {
		x = x.Elem()
	}
	if !x.IsValid() || isNil(x) {
		return isNil(b)
	}
	switch reflect.New(x.Type()).Interface().(type) {
	case encoding.TextMarshaler, encoding.BinaryMarshaler, error:
		return b.IsValid() && !b.IsNil()
	}
	if b.IsNil() {
		return false
	}
	switch y := b.Elem(); x.Kind() {
	case reflect.Float32:
		return y.Kind() == reflect.Float64 && float32(y.Float()) == float32(x.Float())
	case reflect.Slice, reflect.Array:
		if y.Kind() == reflect.String { // base64
			return x.Type().Elem().Kind() == reflect.Uint8
		}
		if y.Kind() != reflect.Slice || y.Len() != x.Len() {
			return false
		}
		for i := range x.Len() {
			p := reflect.New(reflect.TypeFor[any]()).Elem()
			p.Set(x.Index(i))
			q := reflect.New(reflect.TypeFor[any]()).Elem()
			q.Set(y.Index(i))
			if !same(p, q) {
				return false
			}
		}
		return true
	case reflect.Map:
		return y.Kind() == reflect.Map && y.Len() == x.Len()
	case reflect.Struct:
		return y.Kind() == reflect.Map
	}
	return false
}

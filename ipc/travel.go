package ipc

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// maxDepth bounds how deep values may be nested that CBOR encodes: structs, maps, slices
// and arrays in each other. The decoder takes some more, for what types that encode
// themselves add.
const (
	maxDepth        = 256
	maxDecodedDepth = maxDepth + 64
)

// pair is a way in which a type can encode and decode itself.
type pair struct {
	encode, decode reflect.Type
	names          string
}

var (
	textPair  = pair{reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](), "MarshalText without UnmarshalText"}
	jsonPair  = pair{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](), "MarshalJSON without UnmarshalJSON"}
	cborPairs = []pair{
		{reflect.TypeFor[cbor.Marshaler](), reflect.TypeFor[cbor.Unmarshaler](), "MarshalCBOR without UnmarshalCBOR"},
		{reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](), "MarshalBinary without UnmarshalBinary"},
		textPair,
	}
	jsonPairs = []pair{jsonPair, textPair}
)

// travels says what is known of a type.
type travels struct {
	err  error // why no value of it can cross
	deep bool  // values may be nested without an end that the type knows
}

// What is known, of reflect.Type to *travels.
var cborTravels, jsonTravels sync.Map

// checkTravels fails if values of t cannot cross in CBOR, or JSON if json is set, or would
// arrive as something else. The error names the path to the part of t that is the reason.
func checkTravels(t reflect.Type, json bool) error { return travelsOf(t, json).err }

func travelsOf(t reflect.Type, json bool) *travels {
	cache := &cborTravels
	if json {
		cache = &jsonTravels
	}
	if known, ok := cache.Load(t); ok {
		return known.(*travels)
	}
	w := typeWalk{json: json, within: make(map[reflect.Type]bool)}
	result := &travels{err: w.walk(t, t.String())}
	result.deep = w.deep
	known, _ := cache.LoadOrStore(t, result)
	return known.(*travels)
}

// typeWalk goes through a type and what it is made of.
type typeWalk struct {
	json   bool
	within map[reflect.Type]bool // types that are being walked, and those that are done
	deep   bool
}

func (w *typeWalk) walk(t reflect.Type, path string) error {
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[big.Int]():
		return nil
	case reflect.TypeFor[big.Float]():
		return fmt.Errorf("%s is a big.Float, whose precision would be lost: use a string or a big.Rat", path)
	}
	if own, err := w.encodesItself(t, path); own || err != nil {
		return err
	}
	if done, seen := w.within[t]; seen {
		w.deep = w.deep || !done
		return nil
	}
	w.within[t] = false
	defer func() { w.within[t] = true }()
	switch t.Kind() {
	case reflect.Pointer:
		return w.walk(t.Elem(), path)
	case reflect.Slice, reflect.Array:
		return w.walk(t.Elem(), path+"[]")
	case reflect.Map:
		if err := w.walk(t.Key(), path+"[key]"); err != nil {
			return err
		}
		return w.walk(t.Elem(), path+"[]")
	case reflect.Struct:
		return w.walkStruct(t, path)
	case reflect.Interface:
		w.deep = true
		if t.NumMethod() > 0 {
			return fmt.Errorf("%s is an interface with methods, and the other side cannot know what to make: use a struct, or any", path)
		}
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return fmt.Errorf("%s is a %v, which cannot be encoded", path, t.Kind())
	}
	return nil
}

func (w *typeWalk) walkStruct(t reflect.Type, path string) error {
	sent := 0
	for i := range t.NumField() {
		f := t.Field(i)
		if f.PkgPath != "" && !f.Anonymous {
			if !w.json && reflect.PointerTo(t).Implements(jsonPair.encode) {
				return fmt.Errorf("%s has MarshalJSON for what it does not export, and CBOR does not use that: give it MarshalText and UnmarshalText, or use codec json", path)
			}
			continue
		}
		if ignored(f) {
			continue
		}
		sent++
		if err := w.walk(f.Type, path+"."+f.Name); err != nil {
			return err
		}
	}
	if name := ambiguous(t, t, make(map[reflect.Type]bool)); name != "" {
		return fmt.Errorf("%s embeds two fields of the name %s, and neither would arrive: give them names by tags", path, name)
	}
	if sent == 0 && t.NumField() > 0 {
		return fmt.Errorf("%s has fields, and none is exported, so it would arrive empty: export them, or give it MarshalText and UnmarshalText", path)
	}
	return nil
}

// ambiguous returns the name of fields that root gets from several embedded structs, of
// which t is root or one, and none of which wins; "" if there are none.
func ambiguous(root, t reflect.Type, seen map[reflect.Type]bool) string {
	seen[t] = true
	for i := range t.NumField() {
		f := t.Field(i)
		if embedded := f.Type; f.Anonymous && f.Tag == "" {
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			if embedded.Kind() == reflect.Struct && !seen[embedded] {
				if name := ambiguous(root, embedded, seen); name != "" {
					return name
				}
			}
			continue
		}
		if _, one := root.FieldByName(f.Name); !one && f.IsExported() && f.Tag == "" {
			return f.Name
		}
	}
	return ""
}

// ignored reports whether the tag of a field says to leave it out.
func ignored(f reflect.StructField) bool {
	tag, ok := f.Tag.Lookup("cbor")
	if !ok {
		tag = f.Tag.Get("json")
	}
	return tag == "-"
}

// encodesItself reports whether values of t encode and decode themselves. It fails if
// they do only one of the two.
func (w *typeWalk) encodesItself(t reflect.Type, path string) (bool, error) {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false, nil
	}
	p, pairs := reflect.PointerTo(t), cborPairs
	if w.json {
		pairs = jsonPairs
	}
	for _, way := range pairs {
		if !p.Implements(way.encode) {
			continue
		}
		if !p.Implements(way.decode) {
			return false, fmt.Errorf("%s has %s, so it would not arrive", path, way.names)
		}
		return true, nil
	}
	return false, nil
}

// checkDepth fails if v is nested deeper than maxDepth, as it is if it contains itself.
func checkDepth(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("tandem: value is nested deeper than %d levels, or contains itself", maxDepth)
	}
	if !v.IsValid() || !travelsOf(v.Type(), false).deep {
		return nil // it ends where its type does
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		// A pointer is no level, but may go round in a circle.
		return checkDepth(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			if err := checkDepth(v.Field(i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := checkDepth(v.Index(i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := checkDepth(it.Value(), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

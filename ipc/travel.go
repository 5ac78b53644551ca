package ipc

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"runtime"
	"slices"
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
	look bool  // whether a value can cross is known when it is there: see checkValue
}

// visit is a type, and whether its values are in a map or an any, which encoding/json copies: methods
// of pointers to them are not called then.
type visit struct {
	t      reflect.Type
	copied bool
}

// What is known, of reflect.Type to *travels, by the codec and whether values are copied.
var cborTravels, cborCopies, jsonTravels, jsonCopies sync.Map

// checkTravels fails if values of t cannot cross in CBOR, or JSON if json is set, or would
// arrive as something else. The error names the path to the part of t that is the reason.
func checkTravels(t reflect.Type, json bool) error { return travelsOf(t, json, false).err }

func travelsOf(t reflect.Type, json, copied bool) *travels {
	cache := &cborTravels
	switch {
	case json && copied:
		cache = &jsonCopies
	case json:
		cache = &jsonTravels
	case copied:
		cache = &cborCopies
	}
	if known, ok := cache.Load(t); ok {
		return known.(*travels)
	}
	w := typeWalk{json: json, within: make(map[visit]bool)}
	result := &travels{err: w.walk(t, t.String(), copied)}
	result.look = w.look
	known, _ := cache.LoadOrStore(t, result)
	return known.(*travels)
}

// typeWalk goes through a type and what it is made of.
type typeWalk struct {
	json   bool
	within map[visit]bool // what is being walked, and what is done
	look   bool
}

func (w *typeWalk) walk(t reflect.Type, path string, copied bool) error {
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[json.Number]():
		w.look = w.look || w.json
		return nil
	case reflect.TypeFor[big.Float]():
		return fmt.Errorf("%s is a big.Float, whose precision would be lost: use a string or a big.Rat", path)
	}
	if own, err := w.encodesItself(t, path, copied); own || err != nil {
		return err
	}
	here := visit{t, copied}
	if done, seen := w.within[here]; seen {
		w.look = w.look || !done
		return nil
	}
	w.within[here] = false
	defer func() { w.within[here] = true }()
	switch t.Kind() {
	case reflect.Pointer:
		return w.walk(t.Elem(), path, false)
	case reflect.Slice:
		return w.walk(t.Elem(), path+"[]", false)
	case reflect.Array:
		return w.walk(t.Elem(), path+"[]", copied)
	case reflect.Map:
		if err := w.walk(t.Key(), path+"[key]", true); err != nil {
			return err
		}
		if err := w.checkKey(t.Key(), path+"[key]"); err != nil {
			return err
		}
		if Carries(t.Key()) {
			return fmt.Errorf("%s[key] is a Buffer or a File, which is another one on the other side: use a value", path)
		}
		return w.walk(t.Elem(), path+"[]", true)
	case reflect.Struct:
		return w.walkStruct(t, path, copied)
	case reflect.Interface:
		w.look = true
		if t.NumMethod() > 0 {
			return fmt.Errorf("%s is an interface with methods, and the other side cannot know what to make: use a struct, or any", path)
		}
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return fmt.Errorf("%s is a %v, which cannot be encoded", path, t.Kind())
	}
	return nil
}

// checkKey fails if t, whose values can cross, is none for keys of maps.
func (w *typeWalk) checkKey(t reflect.Type, path string) error {
	if own, _ := w.encodesItself(t, path, true); own || t == reflect.TypeFor[time.Time]() {
		if w.json && !t.Implements(textPair.encode) {
			return fmt.Errorf("%s is a %v, and keys in JSON are text: give it MarshalText and UnmarshalText, or use codec cbor", path, t)
		}
		return nil
	}
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return nil
	case reflect.Pointer:
		return fmt.Errorf("%s is a pointer, which is another one on the other side: use what it points to", path)
	}
	if w.json {
		return fmt.Errorf("%s is a %v, and keys in JSON are text: use a string, an integer, or codec cbor", path, t)
	}
	switch t.Kind() {
	case reflect.Array:
		return w.checkKeyPart(t.Elem(), path+"[]")
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() || ignored(f, w.json) {
				return fmt.Errorf("%s.%s stays behind, so the key would arrive as another one: export the field, or leave it out", path, f.Name)
			}
			if err := w.checkKeyPart(f.Type, path+"."+f.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *typeWalk) checkKeyPart(t reflect.Type, path string) error {
	if t.Kind() == reflect.Interface {
		return fmt.Errorf("%s is an any in a key, which may arrive as what cannot be a key: use a type instead", path)
	}
	return w.checkKey(t, path)
}

func (w *typeWalk) walkStruct(t reflect.Type, path string, copied bool) error {
	fields := fieldsOf(t, w.json)
	if fields.clash != "" {
		return fmt.Errorf("%s has two fields of the name %s, and not both would arrive: give them names by tags", path, fields.clash)
	}
	sent := len(fields.list)
	for i := range t.NumField() {
		switch f := t.Field(i); {
		case f.PkgPath != "" && !f.Anonymous:
			if !w.json && reflect.PointerTo(t).Implements(jsonPair.encode) {
				return fmt.Errorf("%s has MarshalJSON for what it does not export, and CBOR does not use that: give it MarshalText and UnmarshalText, or use codec json", path)
			}
		case f.PkgPath != "" && f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct && !ignored(f, w.json):
			return fmt.Errorf("%s.%s is a pointer to an embedded struct that is not exported, so it cannot be made on the other side: embed it without a pointer, or export it", path, f.Name)
		case f.Anonymous && !ignored(f, w.json) && f.Type.Kind() == reflect.Struct:
			sent++ // though it may have no fields
		}
	}
	for _, f := range fields.list {
		if err := w.walk(f.Type, path+"."+f.Name, copied); err != nil {
			return err
		}
		if _, options, _ := tagOf(f.StructField, w.json); w.json && slices.Contains(options, "string") {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if own, _ := w.encodesItself(inner, path, false); own {
				return fmt.Errorf("%s.%s encodes itself, and encoding/json does not decode that with the tag \",string\": leave the tag out", path, f.Name)
			}
		}
	}
	if sent == 0 && t.NumField() > 0 {
		return fmt.Errorf("%s has fields, and none is exported, so it would arrive empty: export them, or give it MarshalText and UnmarshalText", path)
	}
	return nil
}

// encodesItself reports whether values of t encode and decode themselves. It fails if
// they do only one of the two, or only with a part of what they have.
func (w *typeWalk) encodesItself(t reflect.Type, path string, copied bool) (bool, error) {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false, nil
	}
	p, pairs := reflect.PointerTo(t), cborPairs
	if w.json {
		pairs = jsonPairs
	}
	if t == reflect.TypeFor[big.Int]() && !w.json {
		return true, nil
	}
	for _, way := range pairs {
		if !p.Implements(way.encode) {
			continue
		}
		if !p.Implements(way.decode) {
			return false, fmt.Errorf("%s has %s, so it would not arrive", path, way.names)
		}
		if w.json && copied && !t.Implements(way.encode) {
			return false, fmt.Errorf("%s is in a map or an any, and encoding/json does not call %s of a pointer there: use a pointer", path, way.encode.Method(0).Name)
		}
		if inner := promoted(t, way.encode.Method(0).Name); inner != "" {
			return false, fmt.Errorf("%s has the %s of %s, which it embeds, so its other fields would not arrive: give the embedded field a name", path, way.encode.Method(0).Name, inner)
		}
		switch at, pointer := declarer(t, way.decode.Method(0).Name); {
		case pointer:
			return false, fmt.Errorf("%s has the %s of a pointer that it embeds, which is nil on the other side: embed %v without a pointer, or give the field a name", path, way.decode.Method(0).Name, at)
		case at == reflect.TypeFor[big.Float]():
			return false, fmt.Errorf("%s embeds a big.Float, whose precision would be lost: use a string or a big.Rat", path)
		}
		if t.Kind() == reflect.Struct && w.json {
			if f, ok := t.FieldByName("Time"); ok && f.Anonymous && f.Type == reflect.TypeFor[time.Time]() {
				w.look = true
			}
		}
		return true, nil
	}
	return false, nil
}

// promoted returns the name of the field that t embeds and has a method from, if t has other fields
// that are exported; "" if t has declared the method.
func promoted(t reflect.Type, method string) string {
	from := embedding(t, method)
	if from == nil {
		return ""
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && f.Name != from.Name {
			return from.Name
		}
	}
	return ""
}

// embedding returns the field that t embeds and has a method from; nil if t has declared the
// method, or has none of that name.
func embedding(t reflect.Type, method string) (from *reflect.StructField) {
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && (has(reflect.PointerTo(f.Type), method) || has(f.Type, method)) {
			from = &f
		}
	}
	m, ok := t.MethodByName(method)
	if !ok {
		if m, ok = reflect.PointerTo(t).MethodByName(method); !ok {
			return nil
		}
	}
	// The compiler makes the method that calls that of the embedded field.
	pc := m.Func.Pointer()
	if file, _ := runtime.FuncForPC(pc).FileLine(pc); file != "<autogenerated>" {
		return nil
	}
	return from
}

// declarer returns the type that declares a method which t has: t, or what it embeds.
// pointer says that a pointer has to be followed to get there, which may be nil.
func declarer(t reflect.Type, method string) (at reflect.Type, pointer bool) {
	for f := embedding(t, method); f != nil; f = embedding(t, method) {
		if t = f.Type; t.Kind() == reflect.Pointer {
			t, pointer = t.Elem(), true
		}
	}
	return t, pointer
}

func has(t reflect.Type, method string) bool { _, ok := t.MethodByName(method); return ok }

package ipc

import (
	"bytes"
	"math"
	"math/big"
	"reflect"
	"regexp"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// shape is what a type makes of an encoded value. It tells how much memory that takes.
type shape struct {
	kind  reflect.Kind // Interface for any; Invalid for what nothing can be decoded into
	size  int64        // of the type
	elem  place        // of slices, arrays and maps
	key   place        // of maps
	slot  int64        // what an entry of a map takes in it
	boxed int64        // what an entry has outside of it, since it is large
	len   int          // of arrays

	fields   []shapeField // of structs, in their order
	names    map[string]int
	folded   map[string]int // by fold
	ints     map[int64]int
	array    bool  // the fields are encoded as an array
	embedded int64 // what pointers to embedded structs point to

	time, big bool
	itself    bool               // it decodes itself, whatever the encoding
	binary    bool               // it decodes itself from byte strings
	text      bool               // it decodes itself from text
	cost      func([]byte) int64 // what decoding itself takes, of the encoded value
}

// place is where a shape is: in a variable of its type, or behind pointers.
type place struct {
	*shape
	pointers int64 // what the pointers point to takes
}

type shapeField struct {
	field
	place
}

// root is the shape of what is decoded into.
type root struct {
	of    place
	worst int64 // the most that a byte of a message can make of it
}

var cborShapes, jsonShapes sync.Map // of reflect.Type, of a pointer, to *root

// shapeOf returns the shape of what a pointer of type t points to.
func shapeOf(t reflect.Type, json bool) *root {
	cache := &cborShapes
	if json {
		cache = &jsonShapes
	}
	if known, ok := cache.Load(t); ok {
		return known.(*root)
	}
	b := shapeBuilder{json: json, shapes: make(map[reflect.Type]*shape)}
	r := &root{of: b.place(t.Elem())}
	r.worst = b.worst()
	known, _ := cache.LoadOrStore(t, r)
	return known.(*root)
}

type shapeBuilder struct {
	json   bool
	shapes map[reflect.Type]*shape
}

func (b *shapeBuilder) place(t reflect.Type) place {
	var p place
	for level := 0; t.Kind() == reflect.Pointer && level < maxDepth; level++ { // type T *T has no end
		t = t.Elem()
		p.pointers += allocated(int64(t.Size()))
	}
	if s := b.shapes[t]; s != nil {
		p.shape = s
		return p
	}
	s := &shape{kind: t.Kind(), size: int64(t.Size())}
	b.shapes[t] = s
	p.shape = s
	b.decodesItself(s, t)
	switch t.Kind() {
	case reflect.Slice:
		s.elem = b.place(t.Elem())
	case reflect.Array:
		s.elem, s.len = b.place(t.Elem()), t.Len()
	case reflect.Map:
		s.key, s.elem = b.place(t.Key()), b.place(t.Elem())
		s.slot, s.boxed = mapSlot(t.Key(), t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[cbor.Tag]() {
			s.kind = reflect.Interface // it has any value
		} else if !s.time && !s.big {
			b.fields(s, t)
		}
	}
	return p
}

// mapSlot returns what an entry takes in a map, and what it takes outside of it.
func mapSlot(key, elem reflect.Type) (slot, boxed int64) {
	const inPlace = 128 // what is larger is allocated by itself
	part := func(t reflect.Type) (size, align int64) {
		if t.Size() > inPlace {
			boxed += allocated(int64(t.Size()))
			return wordBytes, wordBytes
		}
		return int64(t.Size()), int64(t.Align())
	}
	k, ka := part(key)
	e, ea := part(elem)
	up := func(n, align int64) int64 { return (n + align - 1) / align * align }
	return up(up(k, ea)+e, max(ka, ea)), boxed
}

// decodesItself finds out how values of t decode themselves, and what that takes.
func (b *shapeBuilder) decodesItself(s *shape, t reflect.Type) {
	p := reflect.PointerTo(t)
	switch {
	case t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer:
		return
	case t == reflect.TypeFor[time.Time]():
		s.time = true
		return
	case t == reflect.TypeFor[big.Int]() && !b.json:
		s.big = true
		return
	case b.json:
		s.itself = p.Implements(jsonPair.decode)
		s.text = p.Implements(textPair.decode)
	default:
		s.itself = p.Implements(cborPairs[0].decode)
		s.binary = p.Implements(cborPairs[1].decode)
		s.text = p.Implements(textPair.decode)
	}
	s.cost = func(text []byte) int64 { return ownBytes + 2*int64(len(text)) }
	for _, method := range []string{"UnmarshalCBOR", "UnmarshalBinary", "UnmarshalJSON", "UnmarshalText"} {
		if has(p, method) {
			at, _ := declarer(t, method) // it may be embedded
			s.costsAs(at)
		}
	}
}

// costsAs sets what decoding itself takes if at is a type for which that is more than usual.
func (s *shape) costsAs(at reflect.Type) {
	switch at {
	case reflect.TypeFor[big.Int]():
		s.cost = func(text []byte) int64 { return digits(int64(len(text))) }
	case reflect.TypeFor[big.Rat]():
		s.cost = func(text []byte) int64 {
			if bytes.ContainsAny(text, "eEpP") {
				return math.MaxInt64 // an exponent, which no big.Rat writes, makes gigabytes of ten bytes
			}
			return digits(int64(len(text)))
		}
	case reflect.TypeFor[regexp.Regexp]():
		s.cost = func(text []byte) int64 {
			n := int64(len(text))
			switch { // by what a character can stand for at most
			case bytes.ContainsRune(text, '{'): // copies of another
				return n << 14
			case bytes.ContainsRune(text, '\\'): // a table of Unicode
				return n << 12
			}
			return n << 9
		}
	}
}

func (b *shapeBuilder) fields(s *shape, t reflect.Type) {
	fields := fieldsOf(t, b.json)
	s.array = fields.array
	for _, inner := range fields.pointers {
		s.embedded += allocated(int64(inner.Size()))
	}
	s.names, s.folded, s.ints = make(map[string]int), make(map[string]int), make(map[int64]int)
	for i, f := range fields.list {
		s.fields = append(s.fields, shapeField{field: f, place: b.place(f.Type)})
		if !f.asInt {
			s.names[f.name] = i
			key := string(fold(nil, []byte(f.name)))
			if _, taken := s.folded[key]; !taken {
				s.folded[key] = i
			}
		} else if n, err := strconv.ParseInt(f.name, 10, 64); err == nil {
			s.ints[n] = i
		}
	}
}

// fieldOf returns where the value of a key goes, and false if that is nowhere.
func (s *shape) fieldOf(key []byte) (place, bool) {
	if i, ok := s.names[string(key)]; ok {
		return s.fields[i].place, true
	}
	var b [maxFolded]byte
	if i, ok := s.folded[string(fold(b[:0], key))]; ok {
		return s.fields[i].place, true
	}
	return place{}, false
}

// maxFolded is how long a name may be, in bytes, to be folded without memory for it.
const maxFolded = 128

// fold appends name to dst in a form that is the same for names that differ in case alone.
func fold(dst, name []byte) []byte {
	for len(name) > 0 {
		r, n := utf8.DecodeRune(name)
		name = name[n:]
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		dst = utf8.AppendRune(dst, least)
	}
	return dst
}

// worst returns the most that one byte of a message can make of the shapes.
func (b *shapeBuilder) worst() int64 {
	var head, slot, each int64 = wrongBytes, anyBytes, 2
	for _, s := range b.shapes {
		head = max(head, s.embedded, s.elem.pointers, s.key.pointers)
		switch {
		case s.cost != nil && (s.itself || s.binary || s.text):
			each = max(each, s.cost([]byte("{\\")), s.cost(make([]byte, unboundMessage))/unboundMessage, s.cost([]byte("1e9")))
		case s.kind == reflect.Interface:
			head = max(head, entries(1, 2*anyBytes))
		}
		switch s.kind {
		case reflect.Slice:
			slot = max(slot, grown(s.elem.size))
		case reflect.Map:
			head = max(head, entries(1, s.slot))
			slot = max(slot, entries(1, s.slot)+s.boxed)
		}
		for _, f := range s.fields {
			head = max(head, f.pointers)
		}
	}
	const most = math.MaxInt64 / unboundMessage / 4 // no overflow when it is taken for each byte
	return min(head, most) + min(slot, most) + min(each, most)
}

// grown returns what an element takes in a slice that grows with it: as much again, at most.
func grown(size int64) int64 { return 2 * allocated(size) }

package ipc

import (
	"encoding/binary"
	"math"
	"reflect"
)

// The major types of CBOR.
const (
	cborUint   = 0
	cborNegInt = 1
	cborBytes  = 2
	cborText   = 3
	cborArray  = 4
	cborMap    = 5
	cborTag    = 6
)

// head reads the head of an item, which is well-formed and has no indefinite length.
func (w *walk) head() (major, info byte, n uint64) {
	first := w.data[w.at]
	w.at++
	major, info = first>>5, first&31
	rest := w.data[w.at:]
	switch info {
	case 24:
		n = uint64(rest[0])
		w.at++
	case 25:
		n = uint64(binary.BigEndian.Uint16(rest))
		w.at += 2
	case 26:
		n = uint64(binary.BigEndian.Uint32(rest))
		w.at += 4
	case 27:
		n = binary.BigEndian.Uint64(rest)
		w.at += 8
	default:
		n = uint64(info)
	}
	return major, info, n
}

// skipCBOR passes over n items.
func (w *walk) skipCBOR(n int64) {
	for ; n > 0; n-- {
		switch major, _, arg := w.head(); major {
		case cborBytes, cborText:
			w.at += int(arg)
		case cborArray:
			n += int64(arg)
		case cborMap:
			n += 2 * int64(arg)
		case cborTag:
			n++
		}
	}
}

// cbor counts what decoding an item into p takes, and passes over the item.
func (w *walk) cbor(p place) {
	start := w.at
	major, info, n := w.head()
	tags, tag := int64(0), uint64(0)
	for ; major == cborTag; major, info, n = w.head() {
		tags++
		tag = n
		w.take(tags * tagBytes) // the decoder looks at all tags that follow a tag
	}
	if major == 7 && (info == 22 || info == 23) {
		return // nil
	}
	w.take(p.pointers)
	s := p.shape
	switch {
	case s.itself:
		w.at = start
		w.skipCBOR(1)
		w.take(s.cost(w.data[start:w.at]))
		return
	case major == cborBytes && tags > 0 && (tag == 2 || tag == 3):
		w.bignum(s, int64(n))
		w.at += int(n)
		return
	}
	switch major {
	case cborUint, cborNegInt:
		w.integer(s, major == cborNegInt, n)
	case cborBytes, cborText:
		w.cborString(s, major, w.data[w.at:w.at+int(n)])
		w.at += int(n)
	case cborArray:
		w.cborArray(s, int64(n))
	case cborMap:
		w.cborMap(s, int64(n))
	default:
		w.simple(s, info)
	}
}

// bignum counts an integer of n bytes.
func (w *walk) bignum(s *shape, n int64) {
	switch {
	case s.big || s.kind == reflect.Interface || s.kind == reflect.Slice || s.kind == reflect.Array:
		w.take(bigBytes + 2*n)
	default: // the error has it in decimals if it does not fit
		w.take(wrongBytes + digits(n))
	}
}

func (w *walk) integer(s *shape, negative bool, n uint64) {
	value := int64(min(n, math.MaxInt64)) // or -1 - value
	bits := 8 * s.size
	switch s.kind {
	case reflect.Interface:
		switch {
		case negative && n > math.MaxInt64:
			w.take(bigBytes)
		case negative || n > 255:
			w.take(wordBytes)
		}
		return
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n <= math.MaxInt64 && value>>(bits-1) == 0 {
			return
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if !negative && (bits == 64 || n>>bits == 0) {
			return
		}
	case reflect.Float32, reflect.Float64:
		return
	}
	switch {
	case s.big:
		w.take(bigBytes)
	case !s.time:
		w.take(wrongBytes)
	}
}

// simple counts a float, a bool or another simple value.
func (w *walk) simple(s *shape, info byte) {
	float := info >= 25
	switch s.kind {
	case reflect.Interface:
		if float {
			w.take(wordBytes)
		}
		return
	case reflect.Float32, reflect.Float64:
		if float {
			return
		}
	case reflect.Bool:
		if info == 20 || info == 21 {
			return
		}
	}
	if !s.time {
		w.take(wrongBytes)
	}
}

func (w *walk) cborString(s *shape, major byte, b []byte) {
	n := int64(len(b))
	isBytes := major == cborBytes
	elem := reflect.Invalid
	if s.elem.shape != nil {
		elem = s.elem.kind
	}
	switch {
	case s.kind == reflect.Interface && isBytes:
		w.take(sliceBytes + allocated(n))
	case s.kind == reflect.Interface:
		w.take(stringBytes + allocated(n))
	case isBytes && s.binary, !isBytes && s.text:
		w.take(s.cost(b))
	case !isBytes && s.time:
		w.takeTime(b)
	case isBytes && s.kind == reflect.Slice && elem == reflect.Uint8, !isBytes && s.kind == reflect.String:
		w.take(allocated(n))
	case isBytes && s.kind == reflect.Array && elem == reflect.Uint8:
	default:
		w.take(wrongBytes + n)
	}
}

// takeTime counts a time in text.
func (w *walk) takeTime(text []byte) {
	switch n := len(text); {
	case n < len("2006-01-02T15:04:05Z"):
		w.take(wrongBytes)
	case text[n-1] != 'Z':
		w.take(zoneBytes)
	}
	w.take(int64(len(text)))
}

// over reports whether the walk is over.
func (w *walk) over() bool { return w.left < 0 }

func (w *walk) cborArray(s *shape, n int64) {
	switch s.kind {
	case reflect.Interface:
		w.take(sliceBytes)
		w.takeEach(n, anyBytes)
		for ; n > 0 && !w.over(); n-- {
			w.cbor(place{shape: s})
		}
	case reflect.Slice:
		w.takeEach(n, s.elem.size)
		for ; n > 0 && !w.over(); n-- {
			w.cbor(s.elem)
		}
	case reflect.Array:
		in := min(n, int64(s.len))
		for range in {
			if w.over() {
				return
			}
			w.cbor(s.elem)
		}
		w.skipCBOR(n - in)
	case reflect.Struct:
		if !s.array || n != int64(len(s.fields)) {
			w.take(wrongBytes)
			w.skipCBOR(n)
			return
		}
		w.take(s.embedded)
		for _, f := range s.fields {
			if w.over() {
				return
			}
			w.cbor(f.place)
		}
	default:
		w.take(wrongBytes)
		w.skipCBOR(n)
	}
}

func (w *walk) cborMap(s *shape, n int64) {
	switch s.kind {
	case reflect.Interface:
		w.take(entries(n, 2*anyBytes))
		for ; n > 0 && !w.over(); n-- {
			w.cbor(place{shape: s})
			w.cbor(place{shape: s})
		}
	case reflect.Map:
		w.take(entries(n, s.slot))
		w.takeEach(n, s.boxed)
		for ; n > 0 && !w.over(); n-- {
			w.cbor(s.key)
			w.cbor(s.elem)
		}
	case reflect.Struct:
		if s.array {
			w.take(wrongBytes)
			w.skipCBOR(2 * n)
			return
		}
		if n > 0 {
			w.take(s.embedded)
		}
		for ; n > 0 && !w.over(); n-- {
			w.cborField(s)
		}
	default:
		w.take(wrongBytes)
		w.skipCBOR(2 * n)
	}
}

var anyPlace = place{shape: &shape{kind: reflect.Interface}}

// cborField counts a key of a struct, and its value.
func (w *walk) cborField(s *shape) {
	start := w.at
	f, ok := place{}, false
	switch major, _, n := w.head(); major {
	case cborText:
		f, ok = s.fieldOf(w.data[w.at : w.at+int(n)])
		w.at += int(n)
	case cborUint, cborNegInt:
		if n <= math.MaxInt64 {
			key := int64(n)
			if major == cborNegInt {
				key = -1 - key
			}
			var i int
			if i, ok = s.ints[key]; ok {
				f = s.fields[i].place
			}
		}
	default:
		w.at = start
		w.take(wrongBytes)
		w.cbor(anyPlace)
	}
	if ok {
		w.cbor(f)
		return
	}
	w.take(keyBytes + int64(w.at-start))
	w.skipCBOR(1)
}

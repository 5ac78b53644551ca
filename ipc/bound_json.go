package ipc

import (
	"encoding/json"
	"reflect"
	"unicode/utf8"
)

// maxJSONDepth is how deep encoding/json reads.
const maxJSONDepth = 10000

// json counts what decoding a value into p takes, and passes over the value. It ends where the value is
// malformed: encoding/json then decodes nothing.
func (w *walk) json(p place, depth int) {
	if depth > maxJSONDepth {
		w.at = len(w.data)
		return
	}
	c := w.peek()
	if c != 'n' {
		w.take(p.pointers)
	}
	s := p.shape
	start := w.at
	switch {
	case c == 0:
	case s.time && c == '"':
		w.takeTime(w.quoted())
	case s.itself && c != 'n':
		w.skipJSON()
		w.take(s.cost(w.data[start:w.at]))
	case c == '{':
		w.jsonObject(s, depth)
	case c == '[':
		w.jsonArray(s, depth)
	case c == '"':
		w.jsonText(s, w.quoted())
	default:
		w.literal()
		switch {
		case s.kind == reflect.Interface && (c == '-' || c >= '0' && c <= '9'):
			w.take(wordBytes)
		case s.kind == reflect.String: // json.Number
			w.take(allocated(int64(w.at - start)))
		}
	}
}

// jsonText counts a string, without its quotes.
func (w *walk) jsonText(s *shape, text []byte) {
	n := int64(len(text))
	if !utf8.Valid(text) {
		n *= 3 // each wrong byte becomes a U+FFFD
	}
	switch {
	case s.text:
		w.take(s.cost(text))
	case s.kind == reflect.Interface:
		w.take(stringBytes + allocated(n))
	case s.kind == reflect.String, s.kind == reflect.Slice:
		w.take(allocated(n))
	}
}

func (w *walk) jsonArray(s *shape, depth int) {
	elem, slot := anyPlace, int64(anyBytes)
	switch s.kind {
	case reflect.Interface:
		w.take(sliceBytes)
	case reflect.Slice:
		elem, slot = s.elem, s.elem.size
	case reflect.Array:
		elem, slot = s.elem, 0
	default:
		w.skipJSON()
		return
	}
	n := 0
	for w.next('[', ']') && !w.over() {
		if n++; s.kind == reflect.Array && n > s.len {
			w.skipJSON()
			continue
		}
		w.take(grown(slot))
		w.json(elem, depth+1)
	}
}

func (w *walk) jsonObject(s *shape, depth int) {
	n := int64(0)
	for w.next('{', '}') && !w.over() {
		if w.peek() != '"' {
			w.at = len(w.data)
			return
		}
		key := w.quoted()
		if w.peek() == ':' {
			w.at++
		}
		n++
		switch s.kind {
		case reflect.Interface:
			w.take(allocated(int64(len(key))))
			w.json(anyPlace, depth+1)
		case reflect.Map:
			w.take(s.key.pointers + s.boxed)
			w.jsonText(s.key.shape, key)
			w.json(s.elem, depth+1)
		case reflect.Struct:
			if f, ok := s.fieldOf(unquoted(key)); ok {
				w.json(f, depth+1)
			} else {
				w.skipJSON()
			}
		default:
			w.skipJSON()
		}
	}
	switch s.kind {
	case reflect.Interface:
		w.take(entries(n, anyBytes+stringBytes))
	case reflect.Map:
		w.take(entries(n, s.slot))
	case reflect.Struct:
		w.take(s.embedded)
	}
}

// unquoted returns what a string without its quotes stands for.
func unquoted(text []byte) []byte {
	for _, c := range text {
		if c == '\\' {
			var s string
			if json.Unmarshal(append(append([]byte{'"'}, text...), '"'), &s) == nil {
				return []byte(s)
			}
			break
		}
	}
	return text
}

// peek passes over spaces and returns the byte that follows, 0 at the end.
func (w *walk) peek() byte {
	for ; w.at < len(w.data); w.at++ {
		if c := w.data[w.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

// next passes over what opens an array or object, or parts its elements, and reports whether there is
// one more. It passes over what closes it.
func (w *walk) next(open, end byte) bool {
	switch c := w.peek(); c {
	case open, ',':
		w.at++
	case end:
	default:
		w.at = len(w.data)
		return false
	}
	switch w.peek() {
	case end:
		w.at++
		return false
	case 0:
		return false
	}
	return true
}

// quoted passes over a string and returns it without its quotes.
func (w *walk) quoted() []byte {
	start := w.at + 1
	for w.at = start; w.at < len(w.data); w.at++ {
		switch w.data[w.at] {
		case '"':
			w.at++
			return w.data[start : w.at-1]
		case '\\':
			w.at++
		}
	}
	w.at = len(w.data)
	return w.data[min(start, w.at):]
}

// literal passes over a number, true, false or null.
func (w *walk) literal() {
	for ; w.at < len(w.data); w.at++ {
		switch w.data[w.at] {
		case ',', ']', '}', ':', '"', ' ', '\n', '\t', '\r', '[', '{':
			return
		}
	}
}

// skipJSON passes over a value.
func (w *walk) skipJSON() {
	for open := 0; ; {
		switch c := w.peek(); c {
		case 0:
			return
		case '"':
			w.quoted()
		case '{', '[':
			open++
			w.at++
		case '}', ']':
			open--
			w.at++
		case ',', ':':
			w.at++
		default:
			w.literal()
		}
		if open <= 0 {
			return
		}
	}
}

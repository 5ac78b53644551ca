package ipc

import (
	"fmt"
	"math"
	"reflect"
)

// What decoding one message may take unless the method says otherwise: so many bytes, or so
// many times the size of the message if that is more. The first leaves room for types that
// are large by nature, such as maps of one entry each. The second is twice what a long list
// of small values in an any takes.
const (
	maxDecoded       = 256 << 20
	maxDecodedFactor = 32
)

// unboundMessage is up to which size a message is decoded without a look through it first, if
// its type cannot make too much of it.
const unboundMessage = 64 << 10

type maxDecodedOption int

func (n maxDecodedOption) applyMethod(o *methodOptions) { o.maxDecoded = int(n) }

// WithMaxDecoded bounds how many bytes of memory decoding may take, for each request and
// each response of a method, with the codecs CBOR and JSON, and any other that is a [Bounder]. A message that would take more
// is an [*Error] with CodeResourceExhausted on the side that should have decoded it, and
// nothing of it is decoded. Without this option the bound is 256 MiB, or 32 times the size
// of the message if that is more.
//
// The bound counts, before anything is decoded, what the values of the message take in
// memory as the type of the method has them: elements of slices, entries of maps, what
// pointers point to, strings. What takes much time counts as memory, too: integers of many
// thousand digits, values of wrong types. Regular expressions count for what each of their
// characters could stand for. What a type allocates that decodes itself, and is not of the
// standard library, is not known. Of all else the count is within a factor of 2 of what is
// allocated, mostly above it.
//
// WithMaxDecoded panics if bytes is not positive.
func WithMaxDecoded(bytes int) interface {
	MethodOption
	TopicOption
} {
	if bytes <= 0 {
		panic(fmt.Sprintf("tandem: WithMaxDecoded(%d): need a positive number", bytes))
	}
	return maxDecodedOption(bytes)
}

// checkDecoded fails if decoding data into what v points to would take more memory than
// limit, or than a message of its size may if limit is 0.
func checkDecoded(json bool, data []byte, v any, limit int) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return nil // the decoder refuses it
	}
	if t == reflect.TypeFor[*any]() { // what it holds already may be decoded into
		if p := reflect.ValueOf(v); !p.IsNil() && !p.Elem().IsNil() && p.Elem().Elem().Kind() == reflect.Pointer {
			t = p.Elem().Elem().Type()
		}
	}
	size, bound := int64(len(data)), int64(limit)
	if limit == 0 {
		bound = max(maxDecoded, maxDecodedFactor*size)
	}
	root := shapeOf(t, json)
	if size <= unboundMessage && size*root.worst <= bound {
		return nil
	}
	w := walk{data: data, left: bound}
	if json {
		w.json(root.of, 0)
	} else {
		if cborDec.Wellformed(data) != nil {
			return nil // the decoder says what is wrong, and does nothing else
		}
		w.cbor(root.of)
	}
	if w.left < 0 {
		return Errorf(CodeResourceExhausted, "tandem: message of %d bytes takes more than %d bytes to decode into %v (see ipc.WithMaxDecoded)", size, bound, t.Elem())
	}
	return nil
}

// walk goes through an encoded message and counts what decoding it takes.
type walk struct {
	data []byte
	at   int
	left int64 // of the bound; negative when it is exceeded, and then the walk ends
}

func (w *walk) take(n int64) {
	if n > w.left {
		n = w.left + 1
	}
	w.left -= n
}

// takeEach counts n times each.
func (w *walk) takeEach(n, each int64) {
	if n > 0 && each > math.MaxInt64/n {
		n, each = 1, math.MaxInt64
	}
	w.take(allocated(n * each))
}

// What values take in memory, in bytes.
const (
	wordBytes   = 8
	stringBytes = 16
	anyBytes    = 16
	sliceBytes  = 24
	tagBytes    = 24  // cbor.Tag; a time.Time in an any
	mapBytes    = 48  // a map, without its entries
	bigBytes    = 112 // a small big.Int, and what makes it
	zoneBytes   = 192 // a time.Location with one offset
	keyBytes    = 80  // a key that no field has, which is kept until its struct is decoded
	wrongBytes  = 256 // the error of a value that the type cannot take
	ownBytes    = 96  // what a type that decodes itself takes beside its text
)

// allocated returns what an allocation of n bytes takes: allocations come in sizes with some waste.
func allocated(n int64) int64 {
	switch {
	case n <= 0:
		return 0
	case n <= wordBytes:
		return wordBytes
	case n < 32<<10:
		return n + n/8
	}
	return min(n, math.MaxInt64-8192) + 8192
}

// entries returns what n entries of slot bytes take in a map, and the map.
func entries(n, slot int64) int64 {
	switch {
	case n == 0:
		return mapBytes
	case n <= 8:
		return mapBytes + allocated(8+8*slot)
	case slot > math.MaxInt64/8/n:
		return math.MaxInt64
	}
	return mapBytes + (n*16/7+16)*(slot+1) // they fill no less than 7 of 16 slots, and each has a byte of its hash
}

// digits returns what reading n digits of a number of any length counts for. It takes
// the square of n in time.
func digits(n int64) int64 { return min(n, 1<<31)*min(n, 1<<31)/1024 + n }

package ipc

import (
	"fmt"
	"slices"
)

// MaxMetadata bounds the metadata of a request, the header of an answer, and its trailer,
// each by itself, in bytes as [Metadata.Size] counts them.
const MaxMetadata = 16 << 10

// fieldCost is what a field counts for besides its text, since that is what it takes in
// memory.
const fieldCost = 32

// maxKey is the longest key, in bytes.
const maxKey = 255

// Metadata are keys with values that travel with a request or an answer, beside what the
// method's types say: who asks, what it belongs to, how it went. A key may have several
// values. Fields keep their order.
//
// A key has 1 to 255 bytes, each a lower case ASCII letter, a digit, or one of "-", "_" and
// ".". A value may have any bytes. Whoever sends metadata that is not so, or more than
// [MaxMetadata], gets an error.
//
// The zero value is empty. The methods never change fields that others may share, so
// Metadata may be passed on as it is. It is not safe for concurrent use while one of Add,
// Set and Del runs.
type Metadata []Field

// A Field is a key with a value.
type Field struct{ Key, Value string }

// Pairs returns metadata of alternating keys and values. It panics if the last key has no
// value.
func Pairs(keyValues ...string) Metadata {
	if len(keyValues)%2 != 0 {
		panic(fmt.Sprintf("tandem: metadata: key %q has no value", keyValues[len(keyValues)-1]))
	}
	m := make(Metadata, 0, len(keyValues)/2)
	for i := 0; i < len(keyValues); i += 2 {
		m = append(m, Field{keyValues[i], keyValues[i+1]})
	}
	return m
}

// Get returns the first value of key, and "" if it has none.
func (m Metadata) Get(key string) string {
	value, _ := m.Lookup(key)
	return value
}

// Lookup returns the first value of key, and whether it has one.
func (m Metadata) Lookup(key string) (value string, ok bool) {
	for i := range m {
		if m[i].Key == key {
			return m[i].Value, true
		}
	}
	return "", false
}

// Values returns all values of key, in their order.
func (m Metadata) Values(key string) []string {
	var values []string
	for i := range m {
		if m[i].Key == key {
			values = append(values, m[i].Value)
		}
	}
	return values
}

// Add adds a value to those that key has.
func (m *Metadata) Add(key, value string) { *m = append(slices.Clip(*m), Field{key, value}) }

// Set makes value the only one of key.
func (m *Metadata) Set(key, value string) {
	m.Del(key)
	m.Add(key, value)
}

// Del takes away all values of key.
func (m *Metadata) Del(key string) {
	if _, ok := m.Lookup(key); ok {
		*m = slices.DeleteFunc(slices.Clone(*m), func(f Field) bool { return f.Key == key })
	}
}

// Size returns how much the metadata counts for, in bytes: for each field the length of key
// and value, and 32.
func (m Metadata) Size() int {
	size := 0
	for i := range m {
		size += len(m[i].Key) + len(m[i].Value) + fieldCost
	}
	return size
}

// Check returns an [*Error] if the metadata cannot be sent: of CodeInvalidArgument, which
// names the key that is not allowed, or of CodeResourceExhausted if there is too much.
func (m Metadata) Check() error {
	for i := range m {
		if what := wrongKey(m[i].Key); what != "" {
			return Errorf(CodeInvalidArgument, "tandem: metadata: key %q %s", m[i].Key, what)
		}
	}
	if size := m.Size(); size > MaxMetadata {
		return Errorf(CodeResourceExhausted, "tandem: metadata of %d bytes, largest allowed %d", size, MaxMetadata)
	}
	return nil
}

// wrongKey says what is wrong with a key, "" if nothing is.
func wrongKey(key string) string {
	switch {
	case key == "":
		return "is empty"
	case len(key) > maxKey:
		return fmt.Sprintf("has %d bytes, most allowed are %d", len(key), maxKey)
	}
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return fmt.Sprintf("has byte %#02x; allowed are lower case ASCII letters, digits, -, _ and .", c)
		}
	}
	return ""
}

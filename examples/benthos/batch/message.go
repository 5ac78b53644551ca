package batch

import (
	"maps"
	"slices"

	"github.com/tandemipc/tandem/ipc"
)

// Message is a message in a worker. It is not safe for concurrent use.
type Message struct {
	from       int
	content    []byte
	changed    bool
	meta       map[string]any
	touched    map[string]struct{} // keys of metadata that may have changed
	err        error
	errChanged bool
}

func newMessage(from int, item *Item) *Message {
	m := &Message{from: from, content: item.Content, meta: item.Meta}
	for key, v := range m.meta {
		m.meta[key] = Portable(v)
	}
	if item.Err != nil {
		m.err = ipc.ParseError(item.Err)
	}
	return m
}

// Bytes returns the content. It must not be changed; it may be kept.
func (m *Message) Bytes() []byte { return m.content }

// SetBytes sets the content. The message keeps b.
func (m *Message) SetBytes(b []byte) { m.content, m.changed = b, true }

// MetaGet returns the metadata of a key: a string in most cases, or any other [Portable] value.
func (m *Message) MetaGet(key string) (v any, ok bool) {
	v, ok = m.meta[key]
	return v, ok
}

// MetaAll returns all metadata. The map is the caller's.
func (m *Message) MetaAll() map[string]any { return maps.Clone(m.meta) }

// MetaSet sets the metadata of a key. What is not [Portable] becomes a string. The message keeps
// value, which must not be changed any more.
func (m *Message) MetaSet(key string, value any) {
	if m.meta == nil {
		m.meta = make(map[string]any)
	}
	m.meta[key] = Portable(value)
	m.touch(key)
}

// MetaDelete removes the metadata of a key, also such as was not sent to the worker.
func (m *Message) MetaDelete(key string) {
	delete(m.meta, key)
	m.touch(key)
}

func (m *Message) touch(key string) {
	if m.touched == nil {
		m.touched = make(map[string]struct{})
	}
	m.touched[key] = struct{}{}
}

// Err returns the error of the message, or nil. A message that an earlier processor has failed comes with
// that processor's error.
func (m *Message) Err() error { return m.err }

// SetError marks the message as failed, or as not failed if err is nil. It goes on through the stream with
// what else was changed, and the stream's own processors, such as catch, handle it.
func (m *Message) SetError(err error) { m.err, m.errChanged = err, true }

// Copy returns another message, made of the same one of the engine, with the same content and
// metadata.
func (m *Message) Copy() *Message {
	c := *m
	c.meta, c.touched = maps.Clone(m.meta), maps.Clone(m.touched)
	return &c
}

// outcome returns what has become of the message.
func (m *Message) outcome() Outcome {
	o := Outcome{From: m.from, Changed: m.changed, ErrChanged: m.errChanged}
	if m.changed {
		o.Content = m.content
	}
	for key := range m.touched {
		if v, ok := m.meta[key]; ok {
			if o.Set == nil {
				o.Set = make(map[string]any, len(m.touched))
			}
			o.Set[key] = v
		} else {
			o.Deleted = append(o.Deleted, key)
		}
	}
	slices.Sort(o.Deleted)
	if m.errChanged && m.err != nil {
		o.Err = ipc.AppendError(nil, m.err)
	}
	return o
}

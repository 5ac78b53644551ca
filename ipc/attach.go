package ipc

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
)

// Attachments are what travels with a message beside its bytes: the buffers and the open files
// that the message has in its fields, or is. The codec writes a number for each, by which the
// receiver finds it.
type Attachments struct {
	Buffers []Attached[Buffer]
	Files   []Attached[File]

	// Most messages have one, which takes no memory of its own.
	one    [1]Attached[Buffer]
	handle [32]byte
}

// Attached is an attachment with the number that stands for it in the message.
type Attached[T any] struct {
	Number uint64
	What   T
	used   bool  // a part of the message names it
	lost   error // why it could not be taken, or nil
}

// The most attachments that a message may have.
const (
	MaxBuffers = 256
	MaxFiles   = 16
)

// Release releases all buffers, and closes all files that nobody has taken. a may be nil.
func (a *Attachments) Release() {
	if a == nil {
		return
	}
	a.releaseBuffers()
	for _, f := range a.Files {
		f.What.Close()
	}
}

// ReleaseExcept is Release for what is not in other, which may be nil.
func (a *Attachments) ReleaseExcept(other *Attachments) {
	if a == nil {
		return
	}
	for _, b := range a.Buffers {
		if other == nil || !slices.ContainsFunc(other.Buffers, func(o Attached[Buffer]) bool { return o.What == b.What }) {
			b.What.Release()
		}
	}
	for _, f := range a.Files {
		if other == nil || !slices.ContainsFunc(other.Files, func(o Attached[File]) bool { return o.What == f.What }) {
			f.What.Close()
		}
	}
}

// Add adds a buffer that came with a message, under the number that stands for it there.
func (a *Attachments) Add(number uint64, b Buffer) {
	if a.Buffers == nil {
		a.Buffers = a.one[:0]
	}
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: number, What: b})
}

var attachmentsPool = sync.Pool{New: func() any { return new(Attachments) }}

// NewAttachments returns empty attachments, which Recycle may take back.
func NewAttachments() *Attachments { return attachmentsPool.Get().(*Attachments) }

// Recycle takes the memory of a, which nobody uses any more. What a has was released or is
// another's. a may be nil.
func (a *Attachments) Recycle() {
	if a != nil {
		*a = Attachments{}
		attachmentsPool.Put(a)
	}
}

// Move makes what from has a's, instead of what a has had, and recycles from.
func (a *Attachments) Move(from *Attachments) {
	if a.Buffers, a.Files = from.Buffers, from.Files; len(a.Buffers) == 1 {
		a.one[0] = from.Buffers[0]
		a.Buffers = a.one[:]
	}
	from.Recycle()
}

// AddLost is Add for a buffer that could not be taken. A message that names it is not decoded, but
// fails with why.
func (a *Attachments) AddLost(number uint64, why error) {
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: number, lost: why})
}

// Space returns empty memory for what a link writes for the attachments, which lives as long as they.
// It is enough for one.
func (a *Attachments) Space() []byte { return a.handle[:0] }

// AddFile is Add for a file.
func (a *Attachments) AddFile(number uint64, f File) {
	a.Files = append(a.Files, Attached[File]{Number: number, What: f})
}

// AddLostFile is AddFile for a file that could not be taken. A message that names it is not
// decoded, but fails with why.
func (a *Attachments) AddLostFile(number uint64, why error) {
	a.Files = append(a.Files, Attached[File]{Number: number, What: File{&fileHolder{lost: why}, lastID.Add(1)}})
}

// Empty reports whether there is none. a may be nil.
func (a *Attachments) Empty() bool { return a == nil || len(a.Buffers)+len(a.Files) == 0 }

var bufferType, fileType, handleType = reflect.TypeFor[Buffer](), reflect.TypeFor[File](), reflect.TypeFor[Handle]()

// carrying is which types have attachments, of reflect.Type to bool.
var carrying sync.Map

// Carries reports whether messages of type t may have attachments.
func Carries(t reflect.Type) bool {
	if known, ok := carrying.Load(t); ok {
		return known.(bool)
	}
	carries := findAttachments(t, make(map[reflect.Type]bool))
	carrying.Store(t, carries)
	return carries
}

func findAttachments(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == bufferType || t == fileType || t == handleType {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return findAttachments(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); (f.IsExported() || f.Anonymous) && findAttachments(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// Attach returns the attachments of a message, nil if it has none. They stay the message's. It
// fails if one of them was released, or there are too many.
func Attach[T any](message T) (*Attachments, error) {
	a := NewAttachments()
	if err := attachTo(a, message); err != nil || a.Empty() {
		a.Recycle()
		return nil, err
	}
	return a, nil
}

// attachTo adds the attachments of a message to a. A lone buffer takes no reflection, and no
// memory.
func attachTo[T any](a *Attachments, message T) error {
	if b, ok := any(message).(Buffer); ok {
		return a.add(b)
	}
	return collect(a, message)
}

//go:noinline
func collect[T any](a *Attachments, message T) error {
	return a.collect(reflect.ValueOf(&message).Elem(), 0)
}

// ReleaseAll releases all buffers of a message, and closes its files: the message will not be sent. It
// does nothing to those that were released before.
//
//go:noinline
func ReleaseAll[T any](message T) { // by value, so that the caller's own does not escape
	if v := reflect.ValueOf(&message).Elem(); Carries(v.Type()) {
		releaseAll(v, 0)
	}
}

func releaseAll(v reflect.Value, depth int) {
	if depth > maxDepth || !Carries(v.Type()) {
		return
	}
	switch v.Type() {
	case bufferType:
		v.Interface().(Buffer).Release()
	case fileType:
		v.Interface().(File).Close()
	case handleType:
		if b, err := v.Interface().(Handle).Buffer(); err == nil {
			b.Release()
		}
	default:
		_ = eachPart(v, func(part reflect.Value) error {
			releaseAll(part, depth+1)
			return nil
		})
	}
}

// hold returns attachments with holders of their own of the buffers. It fails if one was
// released. The files stay the caller's. a may be nil.
func (a *Attachments) hold() (*Attachments, error) {
	if a == nil {
		return nil, nil
	}
	own := &Attachments{Buffers: make([]Attached[Buffer], 0, len(a.Buffers)), Files: a.Files}
	for _, b := range a.Buffers {
		another, ok := b.What.Hold()
		if !ok {
			own.releaseBuffers()
			return nil, errReleased
		}
		own.Buffers = append(own.Buffers, Attached[Buffer]{Number: b.Number, What: another})
	}
	return own, nil
}

// releaseBuffers releases all buffers. a may be nil.
func (a *Attachments) releaseBuffers() {
	if a != nil {
		for _, b := range a.Buffers {
			b.What.Release()
		}
	}
}

var errReleased = errors.New("tandem: a Buffer is sent after Release")

func (a *Attachments) add(b Buffer) error {
	switch {
	case b.h == nil && b.id != 0, b.h != nil && b.h.id.Load() != b.id:
		return errReleased
	case b.h == nil || slices.ContainsFunc(a.Buffers, func(o Attached[Buffer]) bool { return o.What == b }):
		return nil
	case len(a.Buffers) == MaxBuffers:
		return fmt.Errorf("tandem: a message has more than %d buffers", MaxBuffers)
	}
	a.Add(b.id, b)
	return nil
}

func (a *Attachments) addFile(f File) error {
	switch {
	case f.h == nil && f.id != 0, f.h != nil && f.h.file.Load() == nil:
		return fmt.Errorf("tandem: a File is sent after Take or Close")
	case f.h == nil || slices.ContainsFunc(a.Files, func(o Attached[File]) bool { return o.What == f }):
		return nil
	case len(a.Files) == MaxFiles:
		return fmt.Errorf("tandem: a message has more than %d files", MaxFiles)
	}
	a.Files = append(a.Files, Attached[File]{Number: f.id, What: f})
	return nil
}

// collect adds what v has.
func (a *Attachments) collect(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("tandem: value is nested deeper than %d levels, or contains itself", maxDepth)
	}
	if !Carries(v.Type()) {
		return nil
	}
	switch v.Type() {
	case bufferType:
		return a.add(v.Interface().(Buffer))
	case fileType:
		return a.addFile(v.Interface().(File))
	case handleType:
		b, err := v.Interface().(Handle).Buffer()
		if err != nil {
			return err
		}
		return a.add(b)
	}
	return eachPart(v, func(part reflect.Value) error { return a.collect(part, depth+1) })
}

// eachPart calls f for what v is made of.
func eachPart(v reflect.Value, f func(reflect.Value) error) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return f(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := f(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := f(it.Value()); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() || field.Anonymous {
				if err := f(v.Field(i)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Resolve puts the attachments that came with a message, which may be nil, into the message, which
// was decoded. Nothing is released. It fails if the message names one that has not come.
func Resolve[T any](message *T, a *Attachments) error {
	if b, ok := any(message).(*Buffer); ok {
		return a.resolveBuffer(b)
	}
	return resolve(message, a)
}

//go:noinline
func resolve[T any](message *T, a *Attachments) error {
	escaped := *message
	err := a.resolve(reflect.ValueOf(&escaped).Elem(), 0)
	*message = escaped
	return err
}

func (a *Attachments) resolveBuffer(b *Buffer) error {
	if b.id == 0 {
		return nil
	}
	if a != nil {
		for i := range a.Buffers {
			if a.Buffers[i].Number == b.id {
				if a.Buffers[i].lost != nil {
					return a.Buffers[i].lost
				}
				a.Buffers[i].used = true
				*b = a.Buffers[i].What
				return nil
			}
		}
	}
	return fmt.Errorf("%w: the message names a buffer that has not come with it", ErrProtocol)
}

func (a *Attachments) resolveFile(f *File) error {
	if f.id == 0 {
		return nil
	}
	if a != nil {
		for i := range a.Files {
			if a.Files[i].Number == f.id {
				a.Files[i].used = true
				if lost := a.Files[i].What.h.lost; lost != nil {
					return lost
				}
				*f = a.Files[i].What
				return nil
			}
		}
	}
	return fmt.Errorf("%w: the message names a file that has not come with it", ErrProtocol)
}

func (a *Attachments) resolve(v reflect.Value, depth int) error {
	if !Carries(v.Type()) || depth > maxDecodedDepth {
		return nil
	}
	switch v.Type() {
	case bufferType:
		return a.resolveBuffer(v.Addr().Interface().(*Buffer))
	case fileType:
		return a.resolveFile(v.Addr().Interface().(*File))
	case handleType:
		h := v.Addr().Interface().(*Handle)
		b := Buffer{id: h.number}
		if err := a.resolveBuffer(&b); err != nil {
			return err
		}
		*h = b.Handle()
		return nil
	}
	if v.Kind() != reflect.Map {
		return eachPart(v, func(part reflect.Value) error { return a.resolve(part, depth+1) })
	}
	var keys, values []reflect.Value // for a map with keys that equal nothing would grow while it is gone through
	for it := v.MapRange(); it.Next(); {
		value := reflect.New(v.Type().Elem()).Elem() // those of a map have no address
		value.Set(it.Value())
		if err := a.resolve(value, depth+1); err != nil {
			return err
		}
		keys, values = append(keys, it.Key()), append(values, value)
	}
	v.Clear()
	for i, key := range keys {
		v.SetMapIndex(key, values[i])
	}
	return nil
}

// give puts the attachments into a message, whose receiver has them from now on, and releases those
// that the message does not name. If it fails all are still a's.
func give[T any](a *Attachments, message *T) error {
	if err := Resolve(message, a); err != nil {
		return err
	}
	for i := range a.Buffers {
		if !a.Buffers[i].used {
			a.Buffers[i].What.Release()
		}
	}
	for i := range a.Files {
		if !a.Files[i].used {
			a.Files[i].What.Close()
		}
	}
	a.Buffers, a.Files = nil, nil
	return nil
}

// attachedCall is a call whose messages may have attachments, with all that it needs.
type attachedCall struct {
	Invocation
	sent, received Attachments
}

var attachedCalls = sync.Pool{New: func() any { return new(attachedCall) }}

// free makes the memory of c another call's. Nobody uses it any more.
func (c *attachedCall) free() {
	*c = attachedCall{}
	attachedCalls.Put(c)
}

// newAttachedCall returns a call of req.
func newAttachedCall[Req any](call *Invocation, req Req) (*attachedCall, error) {
	c := attachedCalls.Get().(*attachedCall)
	c.Invocation = *call
	if err := attachTo(&c.sent, req); err != nil {
		return nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", call.Method.Name, err)
	}
	if !c.sent.Empty() {
		c.Attached = &c.sent
	}
	c.Received = &c.received
	return c, nil
}

// callAttached makes a call whose messages may have attachments.
func (m *Method[Req, Res]) callAttached(ctx context.Context, c Caller, call *Invocation, codec Codec, req Req) (res Res, err error) {
	own, err := newAttachedCall(call, req)
	if err != nil {
		return res, err
	}
	returned := false
	defer func() {
		own.received.Release() // what was not given away, also if an interceptor panics
		if returned {
			own.free()
		}
	}()
	out := getScratch()
	defer putScratch(out)
	err = m.exchange(ctx, c, &own.Invocation, codec, req, out)
	if returned = true; err != nil {
		return res, err
	}
	if res, err = Unmarshal[Res](codec, out.b); err == nil {
		err = give(&own.received, &res)
	}
	if err != nil {
		return res, notDecoded(m.call.Method.Name, err)
	}
	return res, nil
}

// sendAttached sends an item that was encoded into b, with its attachments.
func (s *Sender[T]) sendAttached(ctx context.Context, b []byte, item T) error {
	a, err := Attach(item)
	switch {
	case err != nil:
		return Errorf(CodeInvalidArgument, "encode an item of %q: %w", s.method, err)
	case a == nil:
		return s.stream.Send(ctx, b)
	}
	if st, ok := s.stream.(AttachedStream); ok {
		return st.SendAttached(ctx, b, a)
	}
	return errNoAttachments
}

// decodeAttached decodes an item, and gives it its attachments. Only such an item escapes.
func (r *Receiver[T]) decodeAttached(b []byte) (T, error) {
	item, err := Unmarshal[T](r.codec, b)
	err = r.attach(&item, err)
	return item, err
}

// attach gives the item that was received last its attachments, or releases them if err says that
// it cannot be decoded.
func (r *Receiver[T]) attach(item *T, err error) error {
	st, ok := r.stream.(AttachedStream)
	if !ok && err == nil {
		err = errNoAttachments
	}
	if !ok {
		return err
	}
	a := st.Attachments()
	if a == nil {
		a = NewAttachments()
	}
	if err == nil {
		err = give(a, item)
	}
	if err != nil {
		a.Release()
	}
	a.Recycle()
	return err
}

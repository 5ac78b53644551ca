package ipc

import (
	"context"
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
}

// Attached is an attachment with the number that stands for it in the message.
type Attached[T any] struct {
	Number uint64
	What   T
	used   bool // a part of the message names it
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
	for _, b := range a.Buffers {
		b.What.Release()
	}
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
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: number, What: b})
}

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

var bufferType, fileType = reflect.TypeFor[Buffer](), reflect.TypeFor[File]()

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
	if t == bufferType || t == fileType {
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

// Attach returns the attachments of the message that v points to, nil if it has none. They stay
// the message's. It fails if one of them was released, or there are too many.
func Attach(v any) (*Attachments, error) {
	var a Attachments
	switch v := v.(type) {
	case *Buffer:
		if v.IsZero() {
			return nil, nil
		}
		if err := a.add(*v); err != nil {
			return nil, err
		}
	default:
		if err := a.collect(reflect.ValueOf(v).Elem(), 0); err != nil {
			return nil, err
		}
	}
	if a.Empty() {
		return nil, nil
	}
	return &a, nil
}

func (a *Attachments) add(b Buffer) error {
	switch {
	case b.h == nil && b.id != 0, b.h != nil && b.h.id.Load() != b.id:
		return fmt.Errorf("tandem: a Buffer is sent after Release")
	case b.h == nil || slices.ContainsFunc(a.Buffers, func(o Attached[Buffer]) bool { return o.What == b }):
		return nil
	case len(a.Buffers) == MaxBuffers:
		return fmt.Errorf("tandem: a message has more than %d buffers", MaxBuffers)
	}
	a.Buffers = append(a.Buffers, Attached[Buffer]{Number: b.id, What: b})
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

// Resolve puts the attachments that came with a message into the message, which v points to and
// which was decoded. Nothing is released. It fails if the message names one that has not come.
func Resolve(v any, a *Attachments) error {
	if b, ok := v.(*Buffer); ok {
		return a.resolveBuffer(b)
	}
	return a.resolve(reflect.ValueOf(v).Elem(), 0)
}

func (a *Attachments) resolveBuffer(b *Buffer) error {
	if b.id == 0 {
		return nil
	}
	if a != nil {
		for i := range a.Buffers {
			if a.Buffers[i].Number == b.id {
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
	}
	if v.Kind() != reflect.Map {
		return eachPart(v, func(part reflect.Value) error { return a.resolve(part, depth+1) })
	}
	for it := v.MapRange(); it.Next(); { // whose values have no address
		value := reflect.New(v.Type().Elem()).Elem()
		value.Set(it.Value())
		if err := a.resolve(value, depth+1); err != nil {
			return err
		}
		v.SetMapIndex(it.Key(), value)
	}
	return nil
}

// give puts the attachments into the message that v points to, whose receiver has them from now
// on, and releases those that the message does not name. If it fails all are still a's.
func (a *Attachments) give(v any) error {
	if err := Resolve(v, a); err != nil {
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
	*a = Attachments{}
	return nil
}

// attach returns the invocation with the attachments of the request that v points to.
func (inv *Invocation) attach(v any) (*Invocation, error) {
	a, err := Attach(v)
	if err != nil {
		return inv, Errorf(CodeInvalidArgument, "encode the request of %q: %w", inv.Method.Name, err)
	}
	own := *inv
	own.Attached = a
	return &own, nil
}

// callAttached makes a call whose messages may have attachments.
func (m *Method[Req, Res]) callAttached(ctx context.Context, c Caller, call *Invocation, codec Codec, req Req) (res Res, err error) {
	if call, err = call.attach(&req); err != nil {
		return res, err
	}
	var received Attachments
	call.Received = &received
	out := getScratch()
	defer putScratch(out)
	if err := m.exchange(ctx, c, call, codec, req, out); err != nil {
		received.Release()
		return res, err
	}
	if res, err = Unmarshal[Res](codec, out.b); err == nil {
		err = received.give(&res)
	}
	if err != nil {
		received.Release()
		return res, notDecoded(m.call.Method.Name, err)
	}
	return res, nil
}

// sendAttached sends an item that was encoded into b, with its attachments.
func (s *Sender[T]) sendAttached(ctx context.Context, b []byte, item T) error {
	a, err := Attach(&item)
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
		a = new(Attachments)
	}
	if err == nil {
		err = a.give(item)
	}
	if err != nil {
		a.Release()
	}
	return err
}

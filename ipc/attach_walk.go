package ipc

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
)

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
		v.Interface().(File).drop()
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
	a.AddFile(f.id, f)
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

package ipc

import (
	"reflect"
	"unsafe"
)

// memoryAt returns size bytes at p.
func memoryAt(p unsafe.Pointer, size uintptr) []byte { return unsafe.Slice((*byte)(p), size) }

// memoryOf returns the bytes of *v, whose type has been checked to be fixed.
func memoryOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// appendFixed appends the memory of v. Nothing escapes.
func appendFixed[T any](dst []byte, v T) []byte { return append(dst, memoryOf(&v)...) }

// decodeFixed makes a value of data.
func decodeFixed[T any](data []byte) (v T, err error) {
	if m := memoryOf(&v); len(m) != len(data) {
		err = copyFixed(m, data, reflect.TypeFor[T]())
	} else {
		copy(m, data)
	}
	return v, err
}

// fixedSize returns how many bytes appendFixed appends.
func fixedSize[T any]() int { return int(unsafe.Sizeof(*new(T))) }

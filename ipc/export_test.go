package ipc

import "reflect"

// CheckTravels is what NewMethod checks of a type, with the codec CBOR or JSON.
func CheckTravels(t reflect.Type, c Codec) error { return checkTravels(t, c == JSON) }

// HoldersOf returns how many holders what b is a part of has.
func HoldersOf(b Buffer) int64 { return b.h.has.block.Load().holders.Load() }

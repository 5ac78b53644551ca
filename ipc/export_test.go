package ipc

import "reflect"

// CheckTravels is what NewMethod checks of a type, with the codec CBOR or JSON.
func CheckTravels(t reflect.Type, c Codec) error { return checkTravels(t, c == JSON) }

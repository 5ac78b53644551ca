// Package orderpb is the order of bench as a message of Protocol Buffers. protoc-gen-go has made it of
// order.proto; its file is named for the rule that package unsafe is used in *_unsafe.go only.
package orderpb

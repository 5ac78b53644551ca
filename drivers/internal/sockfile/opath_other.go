//go:build !linux

package sockfile

import "os"

// DialName returns path: the system has no other name for a file.
func DialName(_ *os.File, _, path string) (string, func(), error) { return path, func() {}, nil }

// BindName returns path: the system has no other name for a file.
func BindName(_ *os.File, _, path string) string { return path }

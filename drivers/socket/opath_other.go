//go:build !linux

package socket

import "os"

func dialName(_ *os.File, _, path string) (string, func(), error) { return path, func() {}, nil }

func bindName(_ *os.File, _, path string) string { return path }

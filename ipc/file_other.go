//go:build !unix

package ipc

import "os"

// duplicate fails on this system, where files do not cross either.
func duplicate(*os.File) (*os.File, error) { return nil, ErrUnsupported }

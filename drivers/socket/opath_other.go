//go:build !linux

package socket

import (
	"errors"
	"os"
)

func pin(string) (*os.File, string, error) { return nil, "", errors.ErrUnsupported }

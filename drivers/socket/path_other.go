//go:build !unix || solaris || aix

package socket

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func lockDir(string) (unlock func()) { return func() {} }

func nobodyListens(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func giveTo(*syscall.SysProcAttr, string) error { return nil }

func workerUID(*syscall.SysProcAttr) int { return os.Geteuid() }

func ownedByUs(fs.FileInfo) bool { return false }

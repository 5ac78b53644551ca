//go:build !unix || solaris || aix

package socket

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func (s *site) lock() (unlock func()) { return func() {} }

func narrow(_, _ string, _ syscall.RawConn) error { return nil }

func nobodyListens(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// ownerOf takes every file for ours: the system does not tell.
func ownerOf(fs.FileInfo) int { return os.Geteuid() }

//go:build !unix

package command

import "syscall"

func isChrooted(*syscall.SysProcAttr) bool { return false }

//go:build !unix

package worker

import "syscall"

func isChrooted(*syscall.SysProcAttr) bool { return false }

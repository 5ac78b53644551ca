//go:build unix

package worker

import "syscall"

func isChrooted(attr *syscall.SysProcAttr) bool { return attr != nil && attr.Chroot != "" }

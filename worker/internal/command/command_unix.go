//go:build unix

package command

import "syscall"

func isChrooted(attr *syscall.SysProcAttr) bool { return attr != nil && attr.Chroot != "" }
